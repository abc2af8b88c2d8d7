"""Write docs/gallery.md and its pictures, each drawn by the code that stands beside it: python tools/gallery.py [folder]."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from entries import Entry, made, page

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """# Gallery

Pictures of recorded graphs. Each was drawn by the code beside it; `python tools/gallery.py` draws them all again.
`tg.draw(loss)` shows every op, `level="cells"` the cells of a network with their weights, `level="folded"` one step for all of them.
The same colour is the same parameter; blue and orange are the states h and c.
"""

SETUP = '''import numpy as np
import tinygrad_seq as tg
from tinygrad_seq import nn


def data(T, B=2, D=3):
    return tg.tensor(np.random.default_rng(0).normal(size=(T, B, D)).astype("f4"))


def weight(name, *shape):
    return tg.Tensor(np.random.default_rng(len(name)).normal(size=shape).astype("f4") / 2, requires_grad=True, name=name)


def tagged(net, xs, width, **options):
    """A loss at every step of a network."""
    read, losses = nn.Linear(width, 2, rng=1), []
    for h in tg.steps(net(xs, **options)[0]):
        losses.append((read(h) ** 2).mean())
        losses[-1].name = "C"
    return sum(losses)'''

RNN = """W_x, W_h, b, W_y = weight("W_x", 3, 4), weight("W_h", 4, 4), weight("b", 4), weight("W_y", 4, 2)
h, losses = tg.zeros((2, 4)), []
for x in tg.steps(data(4)):
    h = tg.tanh(h @ W_h + x @ W_x + b)
    losses.append(((h @ W_y) ** 2).mean())
loss = sum(losses)"""

LSTM = """W_x, W_h, b = weight("W_x", 3, 16), weight("W_h", 4, 16), weight("b", 16)
h, c, losses = tg.zeros((2, 4)), tg.zeros((2, 4)), []
for x in tg.steps(data(3)):
    z = h @ W_h + x @ W_x + b
    f, i, g, o = (tg.tanh(part) if k == 2 else tg.sigmoid(part) for k, part in enumerate(tg.split(z, 4, axis=-1)))
    f.name, i.name, g.name, o.name = "figo"
    c = f * c + i * g
    h = o * tg.tanh(c)
    losses.append((h**2).mean())
loss = sum(losses)"""

TRANSLATOR = """class Translator(nn.Module):
    def __init__(self):
        self.encoder, self.decoder = nn.GRU(3, 4, rng=0), nn.GRUCell(3, 4, rng=1)
        self.attention, self.read = nn.BilinearAttention(4, 4, rng=2), nn.Linear(8, 2, rng=3)
        with tg.no_grad():
            self.attention.weight *= 20  # sharper than at the start of training

    def forward(self, xs, ys):
        memory, last = self.encoder(xs)
        h, losses = last[0], []
        for y in tg.steps(ys):
            h = self.decoder(y, h)
            context, _ = self.attention(h, memory)
            losses.append((self.read(tg.concatenate([h, context], axis=-1)) ** 2).mean())
        return sum(losses)


loss = Translator()(data(4), 3 * data(3))"""


ENTRIES = [
    Entry("rnn_ops", "A recurrent network, op by op", "Every use of a weight is a copy of its own.", f"{RNN}\ntg.draw(loss)"),
    Entry(
        "rnn_cells",
        "The same in cells",
        "What makes the next state is one box with its weights; what is read from the state stays outside.",
        'tg.draw(loss, level="cells")',
    ),
    Entry(
        "rnn_folded",
        "The same folded",
        "One step for all of them: the state comes back through a delay square z⁻¹. A network with a step unlike the others is refused.",
        'tg.draw(loss, level="folded")',
    ),
    Entry("lstm_ops", "LSTM, op by op", "The state c runs sideways on one line, h turns back down.", f"{LSTM}\ntg.draw(loss)"),
    Entry("lstm_folded_ops", "LSTM, folded and open", "One step, op by op.", 'tg.draw(loss, level="folded", open="*")'),
    Entry(
        "lstm_cells",
        "LSTM in cells",
        "A compiled loop is opened for the drawing. Both states run from cell to cell as two strands.",
        'loss = tagged(nn.LSTM(3, 4, rng=0), data(4), 4)\ntg.draw(loss, level="cells")',
    ),
    Entry("gru_ops", "GRU, op by op", "", "tg.draw((nn.GRU(3, 4, rng=0)(data(3))[0] ** 2).mean())"),
    Entry("gru_cells", "GRU in cells", "", 'tg.draw(tagged(nn.GRU(3, 4, rng=0), data(4), 4), level="cells")'),
    Entry(
        "lstm_stacked",
        "Layers as a grid",
        "Two layers and five steps.",
        'loss = tagged(nn.LSTM(3, 4, num_layers=2, rng=0), data(5), 4)\ntg.draw(loss, level="cells")',
    ),
    Entry("lstm_stacked_folded", "The same folded", "A delay for every state of every layer.", 'tg.draw(loss, level="folded")'),
    Entry(
        "lstm_stacked_open",
        "One layer opened",
        "Scopes are opened and closed by module, class, path or place.",
        'loss = tagged(nn.LSTM(3, 4, num_layers=2, rng=0), data(3), 4)\ntg.draw(loss, level="cells", open="layer 0")',
    ),
    Entry(
        "bidirectional",
        "Two directions",
        "Two chains: one runs from left to right, the other from right to left.",
        'loss = tagged(nn.LSTM(3, 4, bidirectional=True, rng=0), data(4), 8)\ntg.draw(loss, level="cells")',
    ),
    Entry(
        "bidirectional_lengths",
        "Two layers, two directions, rows of different lengths",
        "Masks of padding are inside the cells.",
        'net = nn.RNN(3, 4, num_layers=2, bidirectional=True, rng=0)\ntg.draw(tagged(net, data(3), 8, lengths=[3, 2]), level="cells")',
    ),
    Entry(
        "bidirectional_ops",
        "Two directions, op by op",
        "",
        "tg.draw(tagged(nn.RNN(3, 4, bidirectional=True, rng=0), data(3), 8))",
    ),
    Entry(
        "attention",
        "Encoder and decoder with attention",
        "Side by side in one row. An edge of attention is as wide as its weight.",
        f'{TRANSLATOR}\ntg.draw(loss, level="cells")',
    ),
    Entry(
        "gradients",
        "Gradients",
        "Width and shade: how much gradient flows back along an edge.",
        f"{RNN.replace('data(4)', 'data(5)')}\nloss = losses[-1]\ntg.draw(loss, gradients=True)",
    ),
    Entry(
        "ledger",
        "The terms of one weight",
        "Every copy of W_h adds one term to its gradient; they are summed in the title.",
        "tg.draw(loss, light=W_h)",
    ),
    Entry(
        "path",
        "From one value to another",
        "Every way from the second state to the loss.",
        """h, hs = tg.zeros((2, 4)), []
for x in tg.steps(data(5)):
    h = tg.tanh(h @ W_h + x @ W_x + b)
    hs.append(h)
loss = ((h @ W_y) ** 2).mean()
tg.draw(loss, path=(hs[1], loss))""",
    ),
    Entry(
        "truncation",
        "Truncated",
        "Scissors where truncated back-propagation through time stops the gradient: behind every second step.",
        """loss = tagged(nn.LSTM(3, 4, rng=0), data(6), 4)
tg.draw(loss, level="cells", truncation=tg.bptt.truncate(loss, 2))""",
    ),
    Entry(
        "gates",
        "Gates, and what the first input still means",
        "After Graves (2012), figure 4.3: ○ is an open gate, — a closed one; grey is how much the memory depends on the first input.",
        """net = nn.LSTM(4, 1, rng=0)  # three of the inputs open and close its gates, the fourth is what it remembers
with tg.no_grad():
    net.weight_ih_l0[...], net.weight_hh_l0[...] = [[18, 0, 0, 0], [0, 18, 0, 0], [0, 0, 0, 1], [0, 0, 18, 0]], 0
    net.bias_ih_l0[...], net.bias_hh_l0[...] = [-9, -9, 0, -9], 0
i, f, o = [1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 1]
hs, _ = net(np.array([i, f, o, [0.5, -1, 1, 0.3, -0.4, 0.8]], "f4").T[:, None])
tg.draw((hs**2).sum(), level="cells", gates=True, sensitivity=1)""",
    ),
    Entry(
        "lengths",
        "Sequences of different lengths",
        "The more rows of the batch have ended, the greyer the column.",
        'tg.draw(tagged(nn.GRU(3, 4, rng=0), data(5, B=3), 4, lengths=[5, 3, 2]), level="cells")',
    ),
    Entry(
        "long",
        "Two hundred steps",
        "Of a long sequence the ends are shown; full=True shows all.",
        'tg.draw(tagged(nn.LSTM(3, 4, num_layers=2, rng=0), data(200), 4), level="cells")',
    ),
]


def main(docs: Path) -> None:
    """Write the page and its pictures."""
    folder, scope = docs / "gallery", {}
    folder.mkdir(parents=True, exist_ok=True)
    exec(SETUP, scope)
    for entry in ENTRIES:
        path = made(entry, scope).save(folder / f"{entry.name}.svg")
        text = re.sub(r"<!--.*?-->\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for same in (' font-family="Helvetica,sans-Serif"', ' text-anchor="middle"'):  # said once for all
            text = text.replace(same, "").replace("<svg ", f"<svg{same} ", 1)
        path.write_text(text.rstrip() + "\n", encoding="utf-8", newline="\n")
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
    (docs / "gallery.md").write_text(page(HEAD, SETUP, ENTRIES, "gallery/{}.svg"), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
