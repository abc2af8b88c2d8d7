"""Back-propagation through time, read off the tape: what every use of a weight adds to its gradient, and when.

    ledger(loss, W)               dL/dW by the step that uses W, and with losses= by the step whose loss it is
    terms(loss, weights)          the same use by use;  copies(loss, W, others): which copies of other weights it runs through
    explain(loss, W)              the derivation of the lecture notes, with the numbers of this graph
    rule("tanh")                  the derivative rule of any op as text
    sweep(loss)                   the reverse sweep to walk along, forth and back
    flow(loss)                    how large dL/dh_t is;  neuron_norms(loss, weights): the same along the depth
    temporal_jacobians(hs)        dh_t/dh_s: norms, spectra, Lyapunov exponents, the path through the gates
    truncate(loss, k1, k2)        truncated BPTT in a graph that is there, and its bias
    four_roads(model, xs)         one gradient by BPTT, real-time learning, recomputation and differences
    held(loss), plan(T, how)      memory on the axis of time, and plans of recomputation

Readers of a recorded graph, after the fact: they touch no `.grad` and change no graph; a compiled time loop is opened into its steps.
"""

from .flow import FlowLine as FlowLine, GradientFlow as GradientFlow, flow as flow
from .derivation import Derivation as Derivation, explain as explain
from .jacobians import temporal_jacobians as temporal_jacobians
from .copies import Use as Use, copies as copies
from .held import Held as Held, held as held
from .ledger import Ledger as Ledger, ledger as ledger
from .plans import Plan as Plan, Trials as Trials, plan as plan, try_plans as try_plans
from .neurons import NeuronNorms as NeuronNorms, neuron_norms as neuron_norms
from .roads import Road as Road, Roads as Roads, four_roads as four_roads
from .rules import Rule as Rule, rule as rule
from .sweep import Break as Break, Move as Move, Sent as Sent, Sweep as Sweep, sweep as sweep
from .spectra import GatedPath as GatedPath, TemporalJacobians as TemporalJacobians
from .truncation import Bias as Bias, Cut as Cut, Truncation as Truncation, truncate as truncate
from .uses import Term as Term, place_of as place_of, tape_of as tape_of, terms as terms, time_of as time_of

__all__ = [
    "Bias",
    "Break",
    "Cut",
    "Derivation",
    "FlowLine",
    "GatedPath",
    "GradientFlow",
    "Held",
    "Ledger",
    "Move",
    "NeuronNorms",
    "Plan",
    "Road",
    "Roads",
    "Rule",
    "Sent",
    "Sweep",
    "TemporalJacobians",
    "Term",
    "Trials",
    "Truncation",
    "Use",
    "copies",
    "explain",
    "flow",
    "four_roads",
    "held",
    "ledger",
    "neuron_norms",
    "place_of",
    "plan",
    "rule",
    "sweep",
    "tape_of",
    "temporal_jacobians",
    "terms",
    "time_of",
    "truncate",
    "try_plans",
]
