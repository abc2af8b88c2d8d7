"""Time loops derived from the equations of a step: trace, adjoint, group, defer, schedule, plan, emit. A file a pass."""
