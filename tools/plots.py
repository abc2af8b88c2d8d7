"""Write docs/plots.md and its figures, each plotted by the code that stands beside it: python tools/plots.py [folder]."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from entries import Entry, made, page

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """# Plots

Figures of `tg.plot`, each by the code beside it; `python tools/plots.py` plots them all again (`pip install 'tinygrad_seq[viz]'`). Every one
hands out the numbers that it shows: `figure, numbers = tg.plot.flow(loss)`; `.save("flow.pdf")` writes it.

One style: darker is more, evenly so in grey and for colour-blind readers; white is where nothing is; lines differ in lightness and in their
dashes; what a logarithmic scale has no place for, zero, infinity and what is no number, is shown as such.
"""

SETUP = '''import numpy as np
import tinygrad_seq as tg
from tinygrad_seq import nn

rng = np.random.default_rng(0)


def data(T, B=2, D=3):
    return tg.tensor(rng.normal(size=(T, B, D)))


def layers(kind, H=16, **options):
    return kind(3, H, rng=0, dtype="float64", **options)


def states(f, w, starts, steps=60):
    """h_t = f(w h_(t-1)) from several starts."""
    path = [np.array(starts, dtype=float)]
    for _ in range(steps):
        path.append(f(path[-1] @ w if np.ndim(w) else w * path[-1]))
    return path'''


ENTRIES = [
    Entry(
        "ledger",
        "The gradient ledger",
        "dL/dW_hh by the step that uses W_hh and the step of the loss. Before the first step h is 0, and so is its term.",
        """net = layers(nn.RNN, 8)
losses = [(h**2).mean() for h in tg.steps(net(data(8))[0])]
led = tg.bptt.ledger(sum(losses), net.weight_hh_l0, losses=losses)
tg.plot.ledger(led)""",
    ),
    Entry(
        "terms",
        "Of one loss",
        "The loss of the last step alone: the norm of each term, and its part in the sum.",
        """net = layers(nn.LSTM)
tg.plot.ledger(tg.bptt.ledger((net(data(30))[0][-1] ** 2).mean(), net.weight_hh_l0))""",
    ),
    Entry(
        "flow",
        "Gradient flow",
        "The gradient of the loss of the last step, back in time, by layer. A straight line: the same factor at every step.",
        """losses = {}
for name, kind, options in [("tanh", nn.RNN, {}), ("relu", nn.RNN, {"nonlinearity": "relu"}), ("LSTM", nn.LSTM, {})]:
    losses[name] = (layers(kind, num_layers=2, **options)(data(40))[0][-1] ** 2).mean()
tg.plot.flow(losses)""",
    ),
    Entry("flow_heat", "The same as a heat map", "The first layer is the lowest row.", "tg.plot.flow(losses, heat=True)"),
    Entry(
        "jacobians",
        "What a state still feels of the past",
        "Temporal Jacobians dh_T/dh_s of three layers; the band holds all rows of the batch.",
        """J = {kind.__name__: tg.bptt.temporal_jacobians(layers(kind)(data(40, B=5))[0]) for kind in (nn.RNN, nn.LSTM, nn.GRU)}
tg.plot.jacobians(J, of="h")""",
    ),
    Entry(
        "gated_path",
        "The constant error carousel, and all other paths",
        "An LSTM whose forget gates stand open. Near the end all goes through the gates; further back other paths, through h and weights, add up.",
        """net = layers(nn.LSTM)
with tg.no_grad():
    net.bias_hh_l0[16:32] = 3.0
tg.plot.gated_path(tg.bptt.temporal_jacobians(net(data(40))[0]).gated_path())""",
    ),
    Entry(
        "depth",
        "Deep networks",
        "The gradient of the incoming weights of each neuron at the start of training, 19 layers of 256 (CMU 11-785).",
        """def deep(f, layers=19, width=256):
    x, ws = tg.tensor(rng.normal(size=(64, width))), []
    for _ in range(layers):
        ws.append(tg.tensor(rng.normal(size=(width, width)) / np.sqrt(width), requires_grad=True))
        x = f(x @ ws[-1].T)
    return tg.bptt.neuron_norms((x**2).mean(), ws)


tg.plot.depth({"sigmoid": deep(tg.sigmoid), "tanh": deep(tg.tanh), "ELU": deep(nn.functional.elu)})""",
    ),
    Entry(
        "spectrum",
        "Eigenvalues",
        "A symmetric matrix has real ones and never oscillates; pairs off the axis do. Outside the circle modes grow, and are filled.",
        """A = rng.normal(size=(24, 24))
scaled = {"random": A, "symmetric": A + A.T, "orthogonal": np.linalg.qr(A)[0]}
scaled = {name: w / np.abs(np.linalg.eigvals(w)).max() for name, w in scaled.items()}
tg.plot.spectrum({"random": 1.1 * scaled["random"], "symmetric": 0.9 * scaled["symmetric"], "orthogonal": scaled["orthogonal"]})""",
    ),
    Entry(
        "growth",
        "The law of the largest eigenvalue",
        "In the long run W^t h_0 grows or shrinks as abs(λ_1)^t. The modulus decides: the real part of 0.9 ± 0.9i is below 1.",
        """ws = {f"{size}": size * scaled["random"] for size in (0.9, 1.0, 1.1)}
tg.plot.growth(ws, rng.normal(size=24), steps=80)""",
    ),
    Entry(
        "panels",
        "Eigenvalue panels",
        "h_t = W h_(t-1) with two units: a real largest eigenvalue and a pair of complex ones, of modulus 0.9, 1 and 1.1.",
        """pair = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
systems = {f"λ = {r:g}, 0.5": np.diag([r, 0.5]) for r in (0.9, 1, 1.1)} | {f"λ = {r:g} exp(± 0.4i)": r * pair for r in (0.9, 1, 1.1)}
tg.plot.trajectories({name: states(np.array, W.T, [1, 1], 40) for name, W in systems.items()})""",
    ),
    Entry(
        "trajectories",
        "Saturation",
        "h_t = f(1.1 h_(t-1)) from four starts: a sigmoid forgets its start at once, tanh remembers the sign, ReLU blows up or dies.",
        """starts = [-1, -0.1, 0.1, 1]
fs = {"sigmoid": tg.sigmoid, "tanh": np.tanh, "ReLU": nn.functional.relu}
tg.plot.trajectories({name: states(f, 1.1, starts) for name, f in fs.items()}, labels=[f"from {x}" for x in starts])""",
    ),
    Entry(
        "vectors",
        "The same with 24 units",
        "h_t = f(h_(t-1) W), the largest eigenvalue 1.1 and all starts equal: linear, it grows for ever; tanh keeps it bounded, and restless.",
        """start = np.ones(24) / np.sqrt(24)
W = 1.1 * scaled["random"]
tg.plot.trajectories({"linear": states(np.array, W, start), "tanh": states(np.tanh, W, start)})""",
    ),
    Entry(
        "taps",
        "Several taps",
        "h_t = 0.5 h_(t-1) + 0.25 h_(t-5) + 0.1 h_(t-8) + x_t and with fewer taps: the slowest pole says how long an input is remembered.",
        'tg.plot.taps({"lag 1": {1: 0.5}, "lags 1, 5": {1: 0.5, 5: 0.25}, "lags 1, 5, 8": {1: 0.5, 5: 0.25, 8: 0.1}})',
    ),
    Entry(
        "attention",
        "Attention",
        "Two heads; the last input is padding, and nobody looks at it.",
        """looks = rng.normal(size=(2, 5, 6)) + 3 * np.eye(5, 6)[[[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]]]
weights = nn.functional.softmax(np.where(np.arange(6) < 5, looks, -np.inf), axis=-1)
tg.plot.attention(weights, queries="le chat noir est là".split(), keys="the black cat is here -".split())""",
    ),
    Entry(
        "gates",
        "Gates over time",
        "An LSTM reads a text: one line of squares for each unit.",
        """text = "gates open and close"
codes = {c: rng.normal(size=3) * 2 for c in sorted(set(text))}
_, _, found = layers(nn.LSTM, 8)(np.array([codes[c] for c in text])[:, None], return_gates=True)
tg.plot.gates(found, labels=text)""",
    ),
    Entry(
        "training",
        "Training",
        "The loss of every step, its mean over the last ones, evaluations, the norm of the gradient before it was clipped, the learning rate.",
        """model = nn.Sequential(nn.Linear(3, 32, rng=0), nn.Tanh(), nn.Linear(32, 1, rng=1))
points = rng.normal(size=(512, 3)).astype("f4")
pairs = list(zip(points.reshape(16, 32, 3), np.sin(points.sum(axis=1)).reshape(16, 32, 1)))
adam = tg.optim.Adam(model.parameters(), lr=1e-2)
history = tg.training.fit(
    model, lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1]), adam, pairs[:12], epochs=20, evaluate=pairs[12:],
    clip_norm=1.0, schedule=tg.optim.lr_scheduler.CosineAnnealingLR(adam, 240), progress=False,
)
tg.plot.training(history, smooth=12)""",
    ),
]


def main(docs: Path) -> None:
    """Write the page and its figures."""
    folder, scope = docs / "plots", {}
    folder.mkdir(parents=True, exist_ok=True)
    exec(SETUP, scope)
    for entry in ENTRIES:
        path = made(entry, scope).save(folder / f"{entry.name}.png")
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
    (docs / "plots.md").write_text(page(HEAD, SETUP, ENTRIES, "plots/{}.png"), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
