"""models/lstm.py: the cell part by part, what its gates hold, and the language model, on small settings."""

from __future__ import annotations

import math
import re
from pathlib import Path

import killing
import numpy as np
import pytest
import svg_checks

import tinygrad_seq as tg
from models import lstm
from models.experiment import Run
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

SMALL = lstm.Language(characters=6000, embedding=8, hidden=12, batch=4, window=8, steps=30, length=20, judged=5)


@pytest.fixture(scope="module")
def text() -> str:
    return data.standard_library_text()[: SMALL.characters]


@pytest.fixture
def little_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "standard_library_text", lambda: text)
    monkeypatch.setattr(Run, "figure", lambda run, name, draw: None)


def sig(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


# ---- D2 and D5: the cell ------------------------------------------------------------------------------------------------------------------


def test_each_cell_is_its_equations() -> None:
    rng = np.random.default_rng(0)
    w = {name: p.numpy() for name, p in lstm.weights_of_parts(3, 4, rng).items()}
    x, h, c = rng.standard_normal((2, 3)), rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    of_x = {k: x @ w[f"W_x{k}"] + w[f"b_{k}"] for k in "ifgo"}
    both = {k: of_x[k] + h @ w[f"W_h{k}"] for k in "ifgo"}
    memory = sig(both["f"]) * c + sig(both["i"]) * np.tanh(both["g"])
    wanted = {
        "1 carousel": c + of_x["g"],
        "2 forget gate": sig(of_x["f"]) * c + of_x["g"],
        "3 input gate and pattern": sig(of_x["f"]) * c + sig(of_x["i"]) * np.tanh(of_x["g"]),
        "4 compression": np.tanh(memory),
        "5 output gate": sig(both["o"]) * np.tanh(memory),
    }
    assert list(wanted) == list(lstm.CELLS)
    for title, cell in lstm.CELLS.items():
        np.testing.assert_allclose(cell(w, x, h, c)[0], wanted[title], rtol=1e-13, err_msg=title)


def test_five_drawings_each_with_one_part_more(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[str] = []
    monkeypatch.setattr(Run, "figure", lambda run, name, draw: drawings.append(draw().dot))
    assert killing.perform(lstm.parts).met
    shown = [set(re.findall(r"W<FONT[^>]*>(\w+)</FONT>", dot)) for dot in drawings]
    assert shown == [{"xg"}, {"xf", "xg"}, {"xf", "xi", "xg"}, gates := {"xf", "hf", "xi", "hi", "xg", "hg"}, gates | {"xo", "ho"}]
    assert all(cell.__doc__ and title in dot for (title, cell), dot in zip(lstm.CELLS.items(), drawings, strict=True))


@pytest.mark.slow
def test_the_drawings_are_in_order(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz", reason="drawings are laid out by Graphviz: pip install -e '.[viz]'")
    killing.perform(lstm.parts, out=tmp_path)
    for path in sorted(tmp_path.glob("*.svg")):
        assert svg_checks.complaints(path.read_text()) == [], path.name


def test_a_cell_holds_for_a_thousand_steps_and_so_does_its_gradient() -> None:
    report = killing.perform(lstm.memory)
    assert report.met and report["dc_T/dc_0 over 1000 steps"] == 1
    leaky, xs = lstm.told([[0, 1, 1]] * 1000, np.zeros(1000))
    with tg.no_grad():
        leaky.bias_ih_l0[1] = -1999.0  # a forget gate of σ(1): it would not hold
    _, (_, c) = leaky(xs, (np.zeros((1, 1, 1)), np.ones((1, 1, 1))))
    assert c.item() < 1e-100


# ---- T16: the language model --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("little_text")
def test_the_language_model_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(lstm.language, SMALL, tmp_path)
    again = killing.perform(lstm.language, SMALL, seed=3, out=tmp_path / "whole", resume=True)  # a finished run: it only writes
    assert again.seconds < 5
    assert (tmp_path / "whole" / "sample.txt").read_text() == (tmp_path / "killed" / "sample.txt").read_text()


@pytest.mark.usefixtures("little_text")
def test_the_text_goes_on_from_the_prompt_that_is_set(tmp_path: Path) -> None:
    def run(*more: str) -> str:
        small = [
            f"--set={name}={getattr(SMALL, name)}"
            for name in ("characters", "embedding", "hidden", "batch", "window", "steps", "length", "judged")
        ]
        assert lstm.main(["--only=T16", f"--out={tmp_path}", "--silent", *small, *more]) in (0, 1)
        return (tmp_path / "lstm" / "language" / "sample.txt").read_text()

    first = run()
    assert first.startswith("def ") and len(first) == len("def ") + SMALL.length + 1
    assert run("--resume") == first
    other = run("--resume", "--set=prompt=import", "--set=temperature=0")
    assert other.startswith("import") and other[6:] != first[4:]


@pytest.mark.parametrize("wrong", ["prompt=", "prompt=é", "temperature=-1"])
@pytest.mark.usefixtures("little_text")
def test_what_it_cannot_write_is_said_before_it_trains(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        lstm.main(["--only=T16", "--quick", f"--out={tmp_path}", f"--set={wrong}"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and f"T16 with --set {wrong}" in said.replace("'", "") and "parameters" not in said


def test_it_overfits_a_line() -> None:
    vocabulary = data.Vocabulary.of("for x in range(3): print(x)\n")
    ids = vocabulary.encode("for x in range(3): print(x)\n")
    model = lstm.CharLSTM(len(vocabulary), 16, 32, rng=np.random.default_rng(0))
    adam = optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(120):
        loss, _ = lstm.next_character_loss(model, (ids[:-1, None], ids[1:, None]), None)
        adam.zero_grad()
        loss.backward()
        adam.step()
    rows = lstm.written(model, ids[:1], len(ids) - 1, 0.0, np.random.default_rng(0))
    assert vocabulary.decode([*ids[:1], *rows[0]]) == "for x in range(3): print(x)\n"
    assert lstm.bits_per_character(model, np.tile(ids, 3)[: 33 + 32]) >= 0


def test_a_prefix_gives_a_distribution_and_a_row_of_the_embedding_is_one_hot_times_it() -> None:
    model = lstm.CharLSTM(9, 4, 5, rng=np.random.default_rng(0))
    with training.evaluating(model):
        scores, _ = model(np.array([[1], [2], [3]]))
        chances = F.softmax(scores.numpy().astype("float64"), axis=-1)
        embedded = model.embed(np.arange(9)).numpy()
    assert abs(chances.sum(axis=-1) - 1).max() < 1e-12
    assert (np.eye(9, dtype="float32") @ model.embed.weight.numpy() == embedded).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_of_draws_are_the_softmax(temperature: float) -> None:
    scores = np.array([1.0, 0.2, -0.5, 2.0, 0.0, -3.0], "float32")
    draws = lstm.drawn(np.tile(scores, (100_000, 1)), temperature, np.random.default_rng(1))
    expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum() * len(draws)
    chi_square = ((np.bincount(draws, minlength=6) - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # with 5 degrees of freedom 1 in 1000 is above


def test_temperature_0_is_the_likeliest_and_the_same_seed_writes_the_same() -> None:
    scores = np.random.default_rng(0).standard_normal((50, 7))
    assert (lstm.drawn(scores, 0, np.random.default_rng(1)) == scores.argmax(axis=1)).all()
    model = lstm.CharLSTM(9, 4, 5, rng=np.random.default_rng(0))
    texts = [lstm.written(model, [1, 2], 30, 1.0, np.random.default_rng(seed), rows=3) for seed in (5, 5, 6)]
    assert texts[0].shape == (3, 30) and (texts[0] == texts[1]).all() and (texts[0] != texts[2]).any()


def test_bits_per_character_are_those_of_a_loop() -> None:
    model = lstm.CharLSTM(9, 4, 5, rng=np.random.default_rng(0))
    ids = np.random.default_rng(1).integers(0, 9, 32 * 40 + 1)
    bits = []
    with training.evaluating(model):
        for part in range(32):
            stream = ids[part * 40 : part * 40 + 41]
            scores, _ = model(stream[:-1, None])
            p = F.softmax(scores.numpy()[:, 0].astype("float64"), axis=-1)
            bits += [-math.log2(row[k]) for row, k in zip(p, stream[1:], strict=True)]
    assert lstm.bits_per_character(model, ids) == pytest.approx(np.mean(bits), rel=1e-6)


def test_what_counting_writes_follows_the_text_that_it_counted() -> None:
    text = "abracadabra, abracadabra; abra! "
    vocabulary = data.Vocabulary.of(text)
    ids = vocabulary.encode(text)
    rows = lstm.written_by_counting(ids, vocabulary.encode("abra"), 200, np.random.default_rng(0), rows=8)
    assert rows.shape == (8, 200)
    seen = {(text * 2)[k : k + 5] for k in range(len(text))}
    for row in rows:
        written = "abra" + vocabulary.decode(row)
        assert {written[k : k + 5] for k in range(len(written) - 4)} <= seen
    after = [
        vocabulary.decode(row)[0]
        for row in lstm.written_by_counting(ids, vocabulary.encode("abra"), 1, np.random.default_rng(1), rows=5000)
    ]
    shares = {x: after.count(x) / 5000 for x in set(after)}  # "abra" is followed by c, comma, c, semicolon, exclamation mark
    assert shares == pytest.approx({"c": 2 / 5, ",": 1 / 5, ";": 1 / 5, "!": 1 / 5}, abs=0.03)


def test_lines_that_parse() -> None:
    assert lstm.share_that_parses("    x = 1\n\n# no code\nif x:\nreturn (\n") == pytest.approx(2 / 3)
    assert lstm.share_that_parses("") == 0


def test_where_a_character_stands_in_its_line() -> None:
    found = lstm.place_in_the_line('x\n  "ab"')
    assert found["place in the line"].tolist() == [1, 2, 1, 2, 3, 4, 5, 6]
    assert found["indentation"].tolist() == [0, 0, 1, 2, 2, 2, 2, 2]
    assert found["inside quotes"].astype(int).tolist() == [0, 0, 0, 0, 1, 1, 1, 0]


@pytest.mark.slow
def test_the_quick_language_model_beats_the_trigram(tmp_path: Path) -> None:
    report = killing.perform(lstm.language, quick=True, out=tmp_path)
    assert report.met and report["LSTM, H=96: bits per character"] < report["3-gram, 0.01 added to every count"]


def test_the_forget_gate_begins_open() -> None:
    model = lstm.CharLSTM(9, 4, 5, rng=np.random.default_rng(0))
    assert (model.lstm.bias_ih_l0.numpy()[5:10] == 1).all() and isinstance(model.lstm, nn.LSTM)
