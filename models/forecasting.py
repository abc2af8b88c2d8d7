"""Forecasting real series one step ahead: autoregression, a network on delay taps, a recurrent network, and the last value.

    AR(p)     x_t = a_1 x_(t-1) + ... + a_p x_(t-p) + c                                         from a fixed number of past terms
    MLP       x_t = v f(W [x_(t-1) ... x_(t-p)] + b) + c                                         a hidden layer on the taps; no memory
    RNN       h_s = tanh(W x_s + U h_(s-1) + b), s = t-p ... t-1;  x_t = v h_(t-1) + c           the taps one by one

- T11  Sunspots, year by year since 1700; trained up to 1920, tested on 1921-55 and 1956-79, as Weigend et al. did. In ARV (average relative variance): the
       mean squared error over the variance of the series, so that 1 is the error of its mean. E5: with a linear f the MLP is an AR model,
       v W its weights, and trained it comes to where least squares are. A gain over AR on 1956-79, years unlike any before, is not claimed.
- T10b The day's highest temperature in Seattle 2012-2015, from that and three more series (precipitation, lowest temperature, wind) of the
       seven days before: an autoregressive net with exogenous inputs (NARX), and a GRU. A stand-in for the notes' hourly temperatures, which are not at hand.
- T19  Share prices by the month, five companies, 2000-2010. The notes draw a network that reads eight prices and tells the next. It is
       not better than the last price, nor is AR: a ratio to the last price near 1 is what an efficient market lets one expect, and no skill.

Every net is a committee of a few, the same from different starts, trained together and averaged: a single one depends on its start more
than the methods differ.
Sources: Graves' deck, "sequence labeling" 1 and 2; CMU 11-785 (2017), stock prices, NARX; Yule, On a method of investigating periodicities in
disturbed series (1927); Weigend, Huberman & Rumelhart, Predicting the future: a connectionist approach (1990).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment, needed
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn.functional import dynamics

# ---- The models ---------------------------------------------------------------------------------------------------------------------------


class Taps(nn.Module):
    """A hidden layer on delay taps: (B, p, D) -> (B,). linear: without its nonlinearity."""

    def __init__(self, p: int, D: int, H: int, *, linear: bool = False, rng: np.random.Generator, dtype: str = "float32"):
        self.hidden, self.linear = nn.Linear(p * D, H, rng=rng, dtype=dtype), linear
        self.read = nn.Linear(H, 1, rng=rng, dtype=dtype)

    def forward(self, xs: Any) -> Any:
        z = self.hidden(xs.reshape(len(xs), -1))  # (B, H)
        return self.read(z if self.linear else tg.tanh(z))[:, 0]


class Reader(nn.Module):
    """A recurrent net that reads the taps one by one, the oldest first: (B, p, D) -> (B,)."""

    def __init__(self, kind: type[nn.RNN | nn.GRU], D: int, H: int, *, rng: np.random.Generator):
        self.layer = kind(D, H, batch_first=True, rng=rng)
        self.read = nn.Linear(H, 1, rng=rng)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.layer(xs)
        return self.read(hs[:, -1])[:, 0]


class Committee(nn.Module):
    """Several nets that are asked the same: (B, p, D) -> (nets, B)."""

    def __init__(self, nets: list[nn.Module]):
        self.nets = nets

    def forward(self, xs: Any) -> Any:
        return tg.stack([net(xs) for net in self.nets])

    def each(self, xs: Any) -> Any:
        """What each says, as an array."""
        with training.evaluating(self):
            return self(xs).numpy()


def squares(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """The mean squared error of all members: no member sees what another does."""
    xs, targets = batch
    return ((model(xs) - targets) ** 2).mean()


@dataclass(frozen=True)
class Training:
    """The settings that the three tasks share."""

    taps: int
    hidden: int
    nets: int
    steps: int
    learning_rate: float = 1e-2
    weight_decay: float = 0.1


def trained(run: Run, name: str, make: Callable[[np.random.Generator], nn.Module], xs: Any, ys: Any, c: Training) -> Committee:
    """A committee of nets, each from a start of its own, trained on all examples at once."""
    rng = run.rng(name)
    committee = Committee([make(rng) for _ in range(c.nets)])
    adam = optim.AdamW(committee.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
    falling = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
    run.fit(name, committee, squares, adam, [(xs, ys)], steps=c.steps, schedule=falling)
    return committee


def windows(series: Any, p: int) -> Any:
    """Of a series (N,) or (N, D) the p terms before each term but the first p, the oldest first: (N-p, p, D)."""
    columns = series.reshape(len(series), -1)
    return np.lib.stride_tricks.sliding_window_view(columns[:-1], p, axis=0).swapaxes(1, 2)


def least_squares(features: Any, targets: Any, known: Any) -> tuple[Any, Any]:
    """The weights, the constant last, that come closest to the known targets, and what they say of all: features (N, ...), known (N,) of bool."""
    rows = np.concatenate([features.reshape(len(features), -1), np.ones((len(features), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(rows[known], targets[known], rcond=None)
    return weights, rows @ weights


# ---- T11: sunspots ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sunspots(Training):
    """The settings of T11."""

    taps: int = 12
    hidden: int = 4
    nets: int = 8
    steps: int = 500
    recurrent: int = 6  # H of the RNN
    linear_steps: int = 2000


def sunspots() -> tuple[Any, Any]:
    """The years 1700 to 2008, and their mean numbers of sunspots."""
    table = needed("statsmodels.api", "statsmodels").datasets.sunspots.load_pandas().data
    return table["YEAR"].to_numpy().astype(int), table["SUNACTIVITY"].to_numpy()


@experiment("T11", "Sunspots: AR, MLP, RNN", rows="E4, E5", quick=Sunspots(), full=Sunspots(), seconds=(6, 6))
def sunspot_numbers(run: Run, config: Sunspots) -> None:
    """Yule's AR(2) and longer ones, a linear net that is one of them, and nets that are not."""
    c, p = config, config.taps
    years, series = sunspots()
    year, target, variance = years[p:], series[p:], series[years <= 1979].var()
    known = year <= 1920

    def arv(said: Any, first: int, last: int) -> float:
        return float(((said - target) ** 2)[(year >= first) & (year <= last)].mean() / variance)

    said = {}
    for order in (2, 9, p):
        weights, found = least_squares(windows(series, order), series[order:], years[order:] <= 1920)
        said[f"AR({order})"] = found[p - order :]
        if order == 2:
            pole = dynamics.poles({1: weights[1], 2: weights[0]})[0]  # the oldest tap comes first
            run.result("AR(2): years of a cycle, by its poles", 2 * np.pi / np.abs(np.angle(pole)))

    mean, scale = series[years <= 1920].mean(), series[years <= 1920].std()
    xs, ys = windows((series - mean) / scale, p), (target - mean) / scale

    def linear(rng: np.random.Generator) -> Taps:
        return Taps(p, 1, c.hidden, linear=True, rng=rng, dtype="float64")

    settings = replace(c, nets=1, steps=c.linear_steps, weight_decay=0.0)
    committee = trained(run, "linear", linear, xs[known], ys[known], settings)
    said["linear f"] = committee.each(xs)[0] * scale + mean
    taps, constant = folded(committee.nets[0])
    apart = np.abs(committee.each(xs)[0] - xs[..., 0] @ taps - constant).max()
    run.result("MLP with a linear f against AR with the weights v W: greatest difference", apart, at_most=1e-12)
    ratio = arv(said["linear f"], 1700, 1920) / arv(said[f"AR({p})"], 1700, 1920)
    run.result("   its squared error up to 1920 / the least that an AR model can have", ratio, at_most=1.01)
    for name, found in said.items():
        run.result(f"{name}: ARV 1921-55", arv(found, 1921, 1955))
        run.result(f"{name}: ARV 1956-79", arv(found, 1956, 1979))

    xs, ys = xs.astype("float32"), ys.astype("float32")
    for name, make in [
        (f"MLP {p}-{c.hidden}-1", lambda rng: Taps(p, 1, c.hidden, rng=rng)),
        (f"RNN-{c.recurrent}", lambda rng: Reader(nn.RNN, 1, c.recurrent, rng=rng)),
    ]:
        each = trained(run, name, make, xs[known], ys[known], c).each(xs) * scale + mean
        said[name] = each.mean(axis=0)
        run.result(f"{name}, {c.nets} of them averaged: ARV 1921-55", arv(said[name], 1921, 1955), at_most=0.13)
        run.result(f"{name}, {c.nets} of them averaged: ARV 1956-79", arv(said[name], 1956, 1979))
        worst = {"at_most": 0.13} if name.startswith("RNN") else {}
        run.result(f"{name}, the worst of them alone: ARV 1921-55", max(arv(one, 1921, 1955) for one in each), **worst)
    run.note("1956-79 holds the highest maximum on record; no gain of a net over AR is claimed there.")
    names = [f"AR({p})", f"RNN-{c.recurrent}"]
    lines = np.stack([target, *(said[name] for name in names)], axis=1)[year >= 1900]
    run.figure(
        "sunspots.svg",
        lambda: over_time("sunspots, told a year ahead", lines, ["observed", *names], 1900, "year", "number of spots"),
    )


def folded(net: Taps) -> tuple[Any, float]:
    """A linear net as an autoregressive model: v W, a weight for each tap, and the constant."""
    v, c = net.read.weight.numpy(), net.read.bias.numpy()
    return (v @ net.hidden.weight.numpy())[0], float((v @ net.hidden.bias.numpy() + c)[0])


def over_time(title: str, lines: Any, labels: list[str], start: int, x: str, y: str) -> tg.plot.Plot:
    """Series side by side, (N, lines)."""
    plot = tg.plot.trajectories({title: lines}, labels=labels, start=start)
    (axes,) = plot.figure.axes
    plot.figure.set_figwidth(9)
    axes.set_ylim(lines.min() - 1, lines.max() + 1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return plot


# ---- T10b: tomorrow's temperature ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weather(Training):
    """The settings of T10b."""

    taps: int = 7
    hidden: int = 8
    nets: int = 5
    steps: int = 300
    learning_rate: float = 5e-3
    first: int = 2014  # of the years to be told, after two to learn from at least; the last is 2015


def weather() -> tuple[Any, Any]:
    """The days 2012-01-01 to 2015-12-31, and of each the highest temperature, precipitation, lowest temperature and wind: (1461, 4)."""
    table = needed("vega_datasets", "vega_datasets").local_data.seattle_weather()
    names = ["temp_max", "precipitation", "temp_min", "wind"]
    return table["date"].to_numpy().astype("datetime64[D]"), table[names].to_numpy()


@experiment(
    "T10b", "Tomorrow's temperature: AR, NARX, GRU", rows="E13",
    quick=Weather(nets=3, steps=200, first=2015), full=Weather(), seconds=(2, 8),
)  # fmt: skip
def temperature(run: Run, config: Weather) -> None:
    """A test year after another, each told by what was learned from all years before it."""
    days, series = weather()
    for year in range(config.first, 2016):
        past = days < np.datetime64(f"{year + 1}-01-01")
        tell_year(run, config, year, days[past], series[past])
    run.note("A gain in one year need not be one in the next. Days hang together, so that two standard errors are not much.")


def tell_year(run: Run, c: Weather, year: int, days: Any, series: Any) -> None:
    """The last year of a series (N, 4) from the years before: nothing in, the season in, three more series in; linear and not."""
    p = c.taps
    of_year = (days - days.astype("datetime64[Y]")).astype(int)
    season = np.stack([np.sin(2 * np.pi * of_year / 365.25), np.cos(2 * np.pi * of_year / 365.25)], axis=1)
    test = days[p:] >= np.datetime64(f"{year}-01-01")
    before, target = series[p - 1 : -1, 0], series[p:, 0]

    def result(what: str, said: Any, **bounds: float) -> float:
        return run.result(f"{year}: {what}", np.sqrt(((said - target) ** 2)[test].mean()), **bounds)

    result("the temperature of the day before, RMSE in degrees", before)
    result("the mean of that day of the year", np.array([target[~test & (of_year[p:] == day)].mean() for day in of_year[p:]]))
    own, all_four = windows(series[:, 0], p), windows(series, p)
    best, least = before, np.inf
    for name, features in [
        (f"AR({p})", [own]),
        (f"AR({p}) and season", [own, season[p:]]),
        (f"ARX({p}), all four series and season", [all_four, season[p:]]),
    ]:
        flat = np.concatenate([one.reshape(len(one), -1) for one in features], axis=1)
        _, said = least_squares(flat, target, ~test)
        error = result(name, said)
        best, least = (said, error) if error < least else (best, least)

    learned = series[: -test.sum()]
    known = (series - learned.mean(axis=0)) / learned.std(axis=0)
    xs = windows(np.concatenate([known, np.roll(season, -1, axis=0)], axis=1), p).astype(
        "float32"
    )  # a day, and the season of the next
    scale = learned[:, 0].std()
    ys = ((target - before) / scale).astype("float32")  # how much warmer than the day before
    for name, make in [
        (f"NARX, an MLP of {c.hidden}", lambda rng: Taps(p, 6, c.hidden, rng=rng)),
        (f"GRU-{c.hidden}", lambda rng: Reader(nn.GRU, 6, c.hidden, rng=rng)),
    ]:
        each = trained(run, f"{name} {year}", make, xs[~test], ys[~test], c).each(xs) * scale + before
        said = each.mean(axis=0)
        bound = {"at_most": 2.85} if year == 2015 else {}
        result(f"{name}, {c.nets} of them averaged, the same inputs", said, **bound)
        gain = ((best - target) ** 2 - (said - target) ** 2)[test]
        what = f"{year}: {name}, squared error below the best linear one's, in standard errors"
        run.result(what, gain.mean() / gain.std() * len(gain) ** 0.5)
    lines = np.stack([target, said, before], axis=1)[test][150:240]
    labels = ["observed", f"GRU-{c.hidden}", "the day before"]
    run.figure(
        f"summer_{year}.svg", lambda: over_time(f"highest temperature {year}", lines, labels, 151, "day of the year", "degrees")
    )


# ---- T19: share prices --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stocks(Training):
    """The settings of T19."""

    taps: int = 8  # what the network of the notes reads
    hidden: int = 4
    nets: int = 5
    steps: int = 200
    order: int = 3  # of AR
    held_out: float = 0.3


def stocks() -> dict[str, Any]:
    """The prices of five shares, month by month."""
    table = needed("vega_datasets", "vega_datasets").local_data.stocks()
    return {name: part["price"].to_numpy() for name, part in table.groupby("symbol")}


@experiment("T19", "Share prices against the last price", rows="E3", quick=Stocks(), full=Stocks(), seconds=(1, 1))
def share_prices(run: Run, config: Stocks) -> None:
    """Ratios of errors, to be near 1: whoever finds much less has made a mistake."""
    c = config
    windows_of, moves_of, prices_of, known_of = {}, {}, {}, {}
    for name, price in stocks().items():
        moves = np.diff(np.log(price))
        windows_of[name], moves_of[name] = windows(moves, c.taps), moves[c.taps :]
        prices_of[name] = price[c.taps :]  # of each move the price before it, and at the end the last price
        known_of[name] = np.arange(len(moves) - c.taps) < (1 - c.held_out) * (len(moves) - c.taps)
    xs, ys = (np.concatenate([of[name][known_of[name]] for name in of]).astype("float32") for of in (windows_of, moves_of))
    scale = ys.std()
    committee = trained(run, "mlp", lambda rng: Taps(c.taps, 1, c.hidden, rng=rng), xs / scale, ys / scale, c)
    for name, price in prices_of.items():
        test = ~known_of[name]

        def ratio(moves: Any, price: Any = price, test: Any = test) -> float:
            told, naive = ((price[:-1] * np.exp(moves) - price[1:])[test], (price[:-1] - price[1:])[test])
            return float(np.sqrt((told**2).mean() / (naive**2).mean()))

        _, by_ar = least_squares(windows_of[name][:, -c.order :], moves_of[name], known_of[name])
        by_net = committee.each(windows_of[name].astype("float32") / scale).mean(axis=0) * scale
        run.result(f"{name}, AR({c.order}) of its moves: error / that of the last price", ratio(by_ar), at_least=0.8, at_most=1.3)
        run.result(f"{name}, MLP {c.taps}-{c.hidden}-1 of all shares", ratio(by_net), at_least=0.8, at_most=1.3)
    run.note(
        "Ratios near 1: neither tells more than the last price does. Five shares in ten years, chosen afterwards, are no test of a market."
    )


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [temperature, sunspot_numbers, share_prices]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
