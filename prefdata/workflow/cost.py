"""`prefdata cost`: hours of a GPU and money that a recipe takes, before anything is run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefdata.errors import ConfigError
from prefdata.models.size import parameters
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.work import Extent, OfTraining, Phase, Work
from prefdata.stages.registry import STAGES
from prefdata.workflow.rates import Rates
from prefdata.workflow.stage_work import stages, whole

MILLION = 1e6
TRAIN = "train"
Prices = tuple[float | None, float | None]
"""Per million tokens that a server reads and writes."""


@dataclass(frozen=True)
class Line:
    """One unit of a stage. Hours are of one GPU: the least, those reckoned with, the most; `bought`: money for tokens of
    servers; `assumed`: rates in it that nobody measured."""

    stage: str
    unit: str
    count: float
    what: str
    hours: tuple[float, float, float]
    bought: float
    assumed: tuple[str, ...]
    used: tuple[str, ...]

    def money(self, gpu_hour: float, which: int = 1) -> float:
        return self.hours[which] * gpu_hour + self.bought


@dataclass(frozen=True)
class Cost:
    """Of a recipe."""

    recipe: str
    lines: list[Line]
    rates: Rates
    extent: Extent

    @property
    def total(self) -> Line:
        return _sum("total", "", self.lines)


def cost(
    settings: Settings,
    extent: Extent,
    rates: Rates,
    training: Iterable[OfTraining],
    known: Mapping[str, float],
    prices: Prices = (None, None),
) -> Cost:
    """What every stage and training run takes. `known`: parameters of models, by how the recipe calls them. Raises
    ConfigError for what is not known, and says which option gives it."""
    works, starts = stages(settings, extent, rates.tasks), dict[str, str]()
    for of_runs in training:
        made, start = of_runs(settings, extent)
        works, starts = works + made, starts | start
    groups: dict[tuple[str, str], list[Line]] = {}
    for work in works:
        unit = whole(settings, work.unit) if work.stage == TRAIN else work.unit
        groups.setdefault((work.stage, unit), []).append(_line(work, rates, starts, known, prices))
    order = [*STAGES]
    order.insert(order.index("evaluate"), TRAIN)
    lines = sorted((_sum(*key, some) for key, some in groups.items()), key=lambda line: order.index(line.stage))
    return Cost(settings.name, lines, rates, extent)


def _line(work: Work, rates: Rates, starts: Mapping[str, str], known: Mapping[str, float], prices: Prices) -> Line:
    here = [p for p in work.phases if p.bought is None and p.tokens]
    hours = [rates.hours(p, size_of_model(p.model, starts, known)) for p in here]
    low, value, high = (sum(h[i] for h in hours) for i in range(3))
    bought = sum(p.tokens / MILLION * _price(p, prices) for p in work.phases if p.bought is not None)
    assumed = tuple(p.rate for p in here if not rates.measured(p))
    return Line(work.stage, work.unit, work.count, work.what, (low, value, high), bought, assumed, tuple(p.rate for p in here))


def _price(phase: Phase, prices: Prices) -> float:
    given = prices[phase.bought == "out"]
    if given is None and not phase.price:
        raise ConfigError(
            f"what its tokens cost is not known ({phase.bought})",
            phase.model,
            "give --price-in and --price-out, 0 if they are free",
        )
    return phase.price if given is None else given


def size_of_model(ref: str, starts: Mapping[str, str], known: Mapping[str, float]) -> float:
    """Parameters of a model as the recipe calls it; of a trained one those of what it starts from. Raises ConfigError."""
    at = ref
    while at not in known:
        found = None if at.startswith("run:") else parameters(at)
        if found is not None:
            return found
        if not starts.get(at.removeprefix("run:")):
            raise ConfigError("how many parameters it has is not known", ref, f"give --params {at}=SIZE, such as 8B")
        at = starts[at.removeprefix("run:")]
    return known[at]


def _sum(stage: str, unit: str, lines: Sequence[Line]) -> Line:
    low, value, high = (sum(line.hours[i] for line in lines) for i in range(3))
    names = [tuple(dict.fromkeys(name for line in lines for name in getattr(line, key))) for key in ("assumed", "used")]
    what = lines[0].what if lines else ""
    return Line(
        stage, unit, sum(x.count for x in lines), what, (low, value, high), sum(x.bought for x in lines), names[0], names[1]
    )


def facts(found: Cost) -> dict[str, Any]:
    """As JSON: the table's rows, their sum, and everything that was assumed."""
    price = found.rates.gpu_hour

    def row(line: Line) -> dict[str, Any]:
        hours = dict(zip(("low", "value", "high"), line.hours, strict=True))
        own = {"stage": line.stage, "unit": line.unit, "count": line.count, "what": line.what, "gpu_hours": hours}
        return {**own, "bought": line.bought, "money": line.money(price), "assumed": list(line.assumed)}

    used = {name: found.rates.shares[name].model_dump() for name in found.total.used}
    given = {"lengths": asdict(found.extent.lengths), "kept": found.extent.kept, "gpu_hour": price}
    total = {k: v for k, v in row(found.total).items() if k not in ("stage", "unit", "count", "what")}
    return {
        "recipe": found.recipe,
        "device": found.rates.device,
        "rows": [row(line) for line in found.lines],
        "total": total,
        "rates": used,
        "assumptions": given,
    }


def render(found: Cost) -> str:
    """For people: the table, and below it what it rests on."""
    price = found.rates.gpu_hour
    header = ("stage", "unit", "work", "GPU hours", "from .. to", "money", "rates")
    rows = [header]
    whole = found.total
    share = sum(line.hours[1] for line in found.lines if line.used and not line.assumed) / (whole.hours[1] or 1)
    for line in [*found.lines, whole]:
        work = f"{line.count:,.0f} {line.what}" if line is not whole else ""
        basis = "assumed" if line.assumed else "measured" if line.used else "bought"
        basis = f"{share:.0%} measured" if line is whole else basis
        spread = f"{line.hours[0]:,.1f} .. {line.hours[2]:,.1f}"
        rows.append((line.stage, line.unit, work, f"{line.hours[1]:,.1f}", spread, f"{line.money(price):,.0f}", basis))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    right = (2, 3, 4, 5)
    table = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join([*(line.rstrip() for line in table), "", *_notes(found)])


def _notes(found: Cost) -> list[str]:
    lengths, rates = found.extent.lengths, found.rates
    ends = [found.total.money(rates.gpu_hour, which) for which in (0, 2)]
    notes = [
        f"Hours of one {rates.device}; money: {rates.gpu_hour:g} a GPU hour (no quote), "
        f"{ends[0]:,.0f} to {ends[1]:,.0f} in all.",
        f"Assumed: prompts of {lengths.prompt:g} tokens, answers of {lengths.completion:g}, {found.extent.kept:.0%} of the "
        "prompts kept; no answer fails.",
        "Shares of the device's peak:",
    ]
    for name in found.total.used:
        rate = rates.shares[name]
        how = "measured" if rate.measured else "assumed"
        notes.append(f"  {name}: {rate.value:g} ({rate.low:g} .. {rate.high:g}), {how}: {rate.source}")
    return notes
