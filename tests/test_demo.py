"""The demonstration, in its quick form: it finishes, what it prints is true, and its files say the same."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import cli, data, demo
from tinygrad_seq.demo import QUICK, CharRNN, bits_per_character, bptt_terms, generate, loss_of
from tinygrad_seq.nn import functional as F

FILES = ["bptt_terms.csv", "bptt_terms.txt", "graph.dot", "graph.svg", "sample.txt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "made"


@pytest.fixture(scope="module")
def printed(folder):
    """What the quick demonstration prints, run once for all tests here."""
    patch = pytest.MonkeyPatch()
    lines: list[str] = []
    patch.setattr("builtins.print", lambda *args, sep=" ", **_: lines.append(sep.join(map(str, args))))
    try:
        assert cli.main(["demo", "--out", str(folder), "--quick"]) == 0
    finally:
        patch.undo()
    return "\n".join(lines)


def bits(printed: str) -> dict[str, float]:
    return {name: float(number) for name, number in re.findall(r"^ +(\S.*?)  +(\d\.\d{3})  ", printed, re.M)}


def test_it_lists_the_files_that_it_wrote(printed, folder):
    listed = re.findall(rf"^ +{re.escape(str(folder))}\S(\S+)", printed, re.M)
    assert sorted(listed) == sorted(path.name for path in folder.iterdir()) == FILES
    assert all(path.stat().st_size > 100 for path in folder.iterdir())


def test_the_network_beats_the_bigram_and_the_bigram_the_unigram(printed):
    found = bits(printed)
    assert found["this network"] < found["bigram"] - 0.3 < found["unigram"] - 0.3 < found["guessing"] - 0.3


def test_the_printed_baselines_are_those_of_the_split(printed):
    text = data.standard_library_text()[: QUICK.corpus]
    vocabulary = data.Vocabulary.of(text)
    train, test = data.split(vocabulary.encode(text))
    for order, name in [(2, "bigram"), (3, "trigram")]:
        assert bits(printed)[name] == pytest.approx(data.ngram_bits(train, test, order, len(vocabulary)), abs=5e-4)


def test_the_printed_terms_add_up_to_the_printed_gradient(printed, folder):
    with (folder / "bptt_terms.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert [int(row[0]) for row in rows] == list(range(1, len(QUICK.explained)))
    assert "".join(row[1] for row in rows) == QUICK.explained[:-1]
    total = sum(float(row[4]) for row in rows)
    for name in (rf"sum of the {len(rows)} terms", r"W_hh\.grad", "derived by hand"):
        (entry,) = re.findall(rf"^ +{name} +[\d.]+ +([+-][\d.]+)", printed, re.M)
        assert float(entry) == pytest.approx(total, abs=1e-11)
    differences = [float(number) for number in re.findall(r"largest difference of any entry: (\S+)", printed)]
    assert len(differences) == 2 and max(differences) < 1e-12
    assert head[4] in (folder / "bptt_terms.txt").read_text(encoding="utf-8")


def test_the_sample_begins_with_the_prompt_and_has_its_length(printed, folder):
    text = (folder / "sample.txt").read_text(encoding="utf-8")
    assert text.startswith(QUICK.prompt) and len(text) == len(QUICK.prompt) + QUICK.sample + 1


def test_the_graph_shows_every_moment_and_the_names_of_the_weights(printed, folder):
    dot = (folder / "graph.dot").read_text(encoding="utf-8")
    for t in range(1, len(QUICK.drawn)):
        assert f"t = {t}" in dot
    assert dot.count("weight_hh_l0") >= len(QUICK.drawn) - 1  # one copy for each use
    assert (folder / "graph.svg").read_text(encoding="utf-8").count("weight_hh_l0") >= len(QUICK.drawn) - 1


# ---- Its parts -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> CharRNN:
    return CharRNN(7, 3, 5, rng=np.random.default_rng(0)).to(dtype="float64")


def test_the_terms_are_delta_times_the_state_before_for_any_model(model):
    ids = np.random.default_rng(1).integers(0, 7, 9)
    loss = loss_of(model, ids)
    terms = bptt_terms(loss, model.rnn.weight_hh_l0)
    assert model.rnn.weight_hh_l0.grad is None
    hs, _ = model.rnn(model.embed(ids[:-1, None]))
    states = np.concatenate([np.zeros((1, 1, 5)), hs.numpy()])
    assert list(terms) == list(range(1, 9))
    for t, term in terms.items():
        assert np.linalg.matrix_rank(term) == (t > 1)  # one row of the batch: an outer product with h_(t-1)
        np.testing.assert_allclose(
            term - (term @ states[t - 1].T) @ states[t - 1] / max((states[t - 1] ** 2).sum(), 1e-9), 0, atol=1e-12
        )
    loss.backward()
    np.testing.assert_allclose(sum(terms.values()), model.rnn.weight_hh_l0.grad.numpy(), atol=1e-13)


def test_bits_per_character_are_those_of_reading_each_stream_on_its_own(model):
    ids = np.random.default_rng(2).integers(0, 7, 61)
    nats = 0.0
    for b in range(4):
        stream = ids[b * 15 : b * 15 + 16]
        nats += loss_of(model, stream).item()
    assert bits_per_character(model, ids, streams=4, window=4) == pytest.approx(nats / 60 / np.log(2), rel=1e-12)


def test_generation_repeats_with_its_seed_and_temperature_0_takes_the_likeliest(model):
    a, b = (generate(model, [1, 2], 20, 1.0, np.random.default_rng(3)) for _ in range(2))
    assert a == b and len(a) == 22 and a[:2] == [1, 2]
    greedy = generate(model, [1, 2], 5, 0, np.random.default_rng(4))
    for n in range(2, 7):
        scores, _ = model(np.array(greedy[:n])[:, None])
        assert greedy[n] == scores.numpy()[-1, 0].argmax()


def test_draws_follow_the_softmax(model):
    rng, count = np.random.default_rng(5), 3000
    scores, _ = model(np.array([[1]]))
    expected = count * F.softmax(scores.numpy()[0, 0] / 0.5)
    observed = np.bincount([generate(model, [1], 1, 0.5, rng)[1] for _ in range(count)], minlength=7)
    assert ((observed - expected) ** 2 / expected).sum() < 22.5  # chi-square with 6 degrees of freedom: p = 0.001


def test_without_a_renderer_the_dot_is_kept_and_the_rest_goes_on(model, tmp_path, monkeypatch, capsys):
    from tinygrad_seq import viz

    real = viz.draw

    class Unrendered:
        def __init__(self, drawing):
            self.drawing = drawing

        def save(self, path):
            if path.suffix == ".svg":
                raise tg.errors.MissingDependencyError("no renderer\n  do: install graphviz")
            return self.drawing.save(path)

    monkeypatch.setattr(viz, "draw", lambda loss: Unrendered(real(loss)))
    files = demo.draw_graph(tmp_path, model, data.Vocabulary("abcdefg"), replace(QUICK, drawn="abc"))
    assert [path.name for path in files] == ["graph.dot"] and files[0].exists()
    assert "install graphviz" in capsys.readouterr().out


# ---- The command ---------------------------------------------------------------------------------------------------------------------------


def test_help_tells_what_there_is(capsys):
    for arguments, words in [
        (["--help"], ["demo", "--version"]),
        (["demo", "--help"], ["--out DIR", "--seed", "--quick", "bptt_terms"]),
    ]:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        shown = capsys.readouterr().out
        assert left.value.code == 0 and all(word in shown for word in words)


@pytest.mark.parametrize(
    "arguments", [[], ["demo"], ["demo", "--out", "x", "--steps", "-1"], ["demo", "--out", "x", "--seed", "one"], ["no"]]
)
def test_wrong_arguments_leave_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2 and "usage: tinygrad-seq" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_without_a_traceback(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "within"):
        assert cli.main(["demo", "--out", str(folder)]) == 1
        told = capsys.readouterr().err
        assert f"tinygrad-seq: {folder}: " in told and "--out" in told


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_narrow_terminal_shows_time_and_loss_behind_a_shorter_bar(columns):
    with demo._progress_bar(1500) as progress:
        progress.ncols = columns
        progress.set_postfix_str("12.345 bits per character", refresh=False)
        line = str(progress)
    assert len(line) <= columns and line.endswith("? to go, 12.345 bits per character")


def test_an_interrupt_ends_the_progress_bar_before_it_is_told(monkeypatch, tmp_path, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tg.optim.Optimizer, "step", interrupt)
    assert cli.main(["demo", "--out", str(tmp_path), "--quick"]) == 1
    assert capsys.readouterr().err.endswith("\ntinygrad-seq: stopped\n")


def test_an_explained_error_leaves_with_code_1_and_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert "tinygrad-seq: standard_library_text: no *.py files" in capsys.readouterr().err
