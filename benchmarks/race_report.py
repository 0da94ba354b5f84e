"""What a race came to, as a page of Markdown: figures from ``summary.json`` of evaluations, and costs of trainings."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baselines.wav2lip.config import EXPERT, GENERATORS
from benchmarks.race_costs import Cost, Outcome
from evaluation.models import CONTROLS, TRUTH
from evaluation.summary import ALPHA, POOLED
from g4g_core.references import COUNT
from g4g_model.config import FRAMES

SHOWN = (
    "m-lmd@20", "sync_score@judge", "psnr@mouth", "ssim@mouth", "cpbd@face256", "csim-dlib", "ffd-dlib", "motion@mouth",
)  # fmt: skip
BY_SOURCE = ("m-lmd@20", "sync_score@judge")
_SIGNS = {"lower": "↓", "higher": "↑"}


@dataclasses.dataclass(frozen=True)
class Story:
    """All that is told.

    Attributes:
        facts: ``preset``, ``steps``, ``clips``, ``jobs``, ``machine``, ``versions``, ``commit``, ``settings``,
            ``learned`` (samples, minutes, identities).
        names: of learned models with their preset, by registered name; the expert among them.
        models: contestants in the order of the tables.
        seeds: the first is that of all contestants.
        outcomes: by (model, seed).
        results: ``summary.json`` by seed.
    """

    facts: Mapping[str, Any]
    names: Mapping[str, str]
    models: Sequence[str]
    seeds: Sequence[int]
    outcomes: Mapping[tuple[str, int], Outcome]
    results: Mapping[int, Mapping[str, Any]]

    @property
    def first(self) -> Mapping[str, Any]:
        return self.results[self.seeds[0]]

    @property
    def metrics(self) -> list[str]:
        about = self.first["metrics"]
        return [name for name in SHOWN if name in about and about[name]["unavailable"] is None]

    def named(self, model: str) -> str:
        return self.names.get(model, model)

    def table(self, seed: int) -> Mapping[str, Any]:
        """Of all sources together; of the one source where there is one."""
        tables = self.results[seed]["tables"]
        found: Mapping[str, Any] = tables.get(POOLED) or next(iter(tables.values()))
        return found

    def head(self, metric: str) -> str:
        """A metric's id with its unit and the direction that is better."""
        about = self.first["metrics"][metric]
        better = about["better"]
        sign = f"→ {better:g}" if isinstance(better, float) else _SIGNS.get(str(better), "")
        unit = f", {about['unit']}" if about["unit"] else ""
        return f"{metric}{unit} {sign}".strip()

    def marks(self, model: str, seed: int) -> list[str]:
        """What the evaluation says beside a name, but for the preset, which is part of it here."""
        about = self.results[seed]["models"].get(model, {"marks": []})
        preset = self.facts["preset"]
        return [mark for mark in about["marks"] if mark != preset and not mark.startswith(f"{preset},")]


def told(story: Story) -> str:
    """The race as a page of Markdown; the name of every learned model carries its preset."""
    parts = [
        _beginning(story), _standing(story), _differences(story), _by_seed(story), _by_source(story), _costs(story),
        _end(story),
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _beginning(story: Story) -> list[str]:
    facts, table = story.facts, story.table(story.seeds[0])
    learned, preset = facts["learned"], facts["preset"]
    sources = [name for name in story.first["tables"] if name != POOLED]
    split = ", ".join(f"{name} {_counted(story.first['tables'][name])}" for name in sources)
    frames = facts["steps"] * facts["clips"] * FRAMES
    return [
        f"# A race of models ({preset})",
        "",
        f"Every contestant is of the preset `{preset}`. The table says how the parts compare at this size, on this "
        "footage and with this budget, and nothing of the published models.",
        "",
        f"- Budget: {facts['steps']:,} steps of {facts['clips']} clips x {FRAMES} frames for every contestant, "
        f"{frames:,} frames drawn. Clips a batch are equal (checked), and so are the samples that are learned from.",
        f"- Learned from: {learned['minutes']:.1f} minutes of {learned['identities']} people ({learned['samples']} "
        "samples).",
        f"- Tested on: {_counted(table)} ({split}). None of them was learned from (checked).",
        f"- Seeds: {', '.join(map(str, story.seeds))}; the first for all, the others for "
        f"{', '.join(story.named(model) for model in _repeated(story)) or 'none'}.",
        f"- Settings besides the preset: {'; '.join(f'`{text}`' for text in facts['settings']) or 'none'}.",
        f"- Machine: {facts['machine']}; {facts['jobs']} trainings at a time, each with one thread.",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}; commit "
        f"{facts['commit'] or 'unknown'}.",
    ]


def _counted(table: Mapping[str, Any]) -> str:
    shots, people = table["shots"], table["identities"]
    return f"{shots} shot{'s' * (shots != 1)} of {people} {'person' if people == 1 else 'people'}"


def _standing(story: Story) -> list[str]:
    seed, metrics = story.seeds[0], story.metrics
    rows = story.table(seed)["rows"]
    lines = [
        f"## All of them, seed {seed}",
        "",
        "Mean over shots and its 95 % interval, people as clusters. ↓ lower is better, ↑ higher is better, → nearer to "
        "this number is better.",
        "",
        *_header(["model", "marks", "shots (failed)", *map(story.head, metrics)]),
    ]
    for model in (TRUTH, *CONTROLS, *story.models):
        failed = story.outcomes[model, seed].failed if model in story.models else None
        if failed is not None or model not in rows:
            lines.append(_row([story.named(model), f"failed: {failed or 'not scored'}", "", *("" for _ in metrics)]))
            continue
        cells = rows[model]["cells"]
        marks = ", ".join(story.marks(model, seed))
        lines.append(_row([story.named(model), marks, _scored(rows[model]), *(_cell(cells.get(m)) for m in metrics)]))
    notes = []
    if any(cell.get("few") for row in rows.values() for cell in row["cells"].values()):
        notes.append("Few identities: under 10 people are tested on, so intervals are rough; under 6 there is no p.")
    absent = {about["unavailable"] for about in story.first["metrics"].values() if about["unavailable"]}
    notes += [f"Not measured: {reason}." for reason in sorted(absent)]
    return [*lines, "", *notes] if notes else lines


def _differences(story: Story) -> list[str]:
    raced = [model for model in story.models if story.outcomes[model, story.seeds[0]].failed is None]
    pairs = [(model, "still") for model in raced]
    if "g4g" in raced:
        others = sorted((model for model in raced if model != "g4g"), key=lambda model: model.startswith("g4g-"))
        pairs += [("g4g", other) for other in others]
    lines = [
        f"## Differences, seed {story.seeds[0]}",
        "",
        "First minus second over the same shots, 95 % interval, p of a sign-flip test by people, adjusted (Holm) over "
        "all pairs of rows. *better* and *worse* are said of the first one, where p is below "
        f"{ALPHA}; where a number is to be reached, distances to it are compared.",
        "",
        *_header(["first", "second", *map(story.head, story.metrics)]),
    ]
    compared = story.table(story.seeds[0])["pairs"]
    for a, b in pairs:
        cells = (_against(story, story.seeds[0], compared, metric, a, b) for metric in story.metrics)
        lines.append(_row([story.named(a), story.named(b), *cells]))
    return lines


def _repeated(story: Story) -> list[str]:
    return [model for model in story.models if all((model, seed) in story.outcomes for seed in story.seeds)] if (
        len(story.seeds) > 1
    ) else []  # fmt: skip


def _by_seed(story: Story) -> list[str]:
    repeated = _repeated(story)
    if not repeated:
        return []
    metrics = story.metrics
    lines = [
        "## Every seed",
        "",
        "The last line of a model is the mean over its seeds ± their standard deviation (divisor n - 1): how far "
        "trainings of the same model lie apart. It is not the interval above, which is over people.",
        "",
        *_header(["model", "seed", "marks", "shots (failed)", *map(story.head, metrics)]),
    ]
    for model in repeated:
        found: list[Mapping[str, Any]] = []
        for seed in story.seeds:
            failed = story.outcomes[model, seed].failed
            row = story.table(seed)["rows"].get(model) if seed in story.results else None
            if failed is not None or row is None:
                lines.append(_row([story.named(model), str(seed), f"failed: {failed}", "", *("" for _ in metrics)]))
                continue
            found += [row["cells"]] if row["scored"] else []
            facts = [", ".join(story.marks(model, seed)), _scored(row)]
            lines.append(_row([story.named(model), str(seed), *facts, *(_cell(row["cells"].get(m)) for m in metrics)]))
        spreads = (_spread([cells.get(metric) for cells in found]) for metric in metrics)
        lines.append(_row([story.named(model), "mean", f"n = {len(found)} seeds", "", *spreads]))
    for a, b in itertools.combinations(repeated, 2):
        lines += ["", f"{story.named(a)} minus {story.named(b)} at every seed (Holm over the rows of that seed):", ""]
        lines += _header(["seed", *map(story.head, metrics)])
        for seed in (seed for seed in story.seeds if seed in story.results):
            compared = story.table(seed)["pairs"]
            lines.append(_row([str(seed), *(_against(story, seed, compared, metric, a, b) for metric in metrics)]))
    return lines


def _spread(cells: Iterable[Mapping[str, Any] | None]) -> str:
    values = [cell["mean"] for cell in cells if cell is not None and cell.get("mean") is not None]
    if not values:
        return ""
    return f"{statistics.mean(values):.4g}" + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")


def _by_source(story: Story) -> list[str]:
    seed = story.seeds[0]
    tables = {name: table for name, table in story.first["tables"].items() if name != POOLED}
    if len(tables) < 2:
        return []
    lines = [f"## By source, seed {seed}", "", "Few people a source: read them as what they are, single cases."]
    for metric in (metric for metric in BY_SOURCE if metric in story.metrics):
        lines += ["", f"{story.head(metric)}:", ""]
        lines += _header(["model", *(f"{name}: {_counted(table)}" for name, table in tables.items())])
        for model in (TRUTH, *CONTROLS, *story.models):
            rows = [table["rows"].get(model) for table in tables.values()]
            if any(row is not None for row in rows):
                cells = ("" if row is None else _cell(row["cells"].get(metric)) for row in rows)
                lines.append(_row([story.named(model), *cells]))
    return lines


def _costs(story: Story) -> list[str]:
    lines = [
        "## What it cost",
        "",
        "*Frames drawn* are drawn and compared with the truth: this is what is equal. *Frames shown* are all that a "
        f"training looks at: those, {COUNT} references a window, and for G4G with its matrix the windows of it; of the "
        "expert, the pictures of its pairs. Not counted: windows on which Wav2Lip's expert is asked now and then "
        "whether it is to be heard, and frames of a sync expert that `--set expert` adds. *Seconds* are those of all "
        "stretches of a training, scoring apart; *with expert* is the whole budget of Wav2Lip. *Parameters* are those "
        "that draw, and all that learn in training.",
        "",
        *_header(["model", "seed", "steps", "frames drawn", "frames shown", "seconds", "median s a step", "stretches",
                  "parameters", "learning", "notes"]),
    ]  # fmt: skip
    for (model, seed), outcome in story.outcomes.items():
        lines.append(_row([story.named(model), str(seed), *_figures(outcome.cost), _notes(outcome)]))
        expert = story.outcomes.get((EXPERT, seed))
        if model in GENERATORS and outcome.cost is not None and expert is not None and expert.cost is not None:
            both = (outcome.cost, expert.cost)
            sums = (sum(getattr(cost, name) for cost in both) for name in ("steps", "drawn", "seen"))
            seconds = sum(cost.seconds for cost in both)
            figures = [*(f"{value:,}" for value in sums), f"{seconds:.0f}", "", "", "", ""]
            lines.append(_row([f"{story.named(model)} with expert", str(seed), *figures, ""]))
    return lines


def _figures(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * 8
    return [
        f"{cost.steps:,}", f"{cost.drawn:,}", f"{cost.seen:,}", f"{cost.seconds:.0f}",
        "" if cost.step_seconds is None else f"{cost.step_seconds:.3f}", str(cost.stretches),
        "" if cost.parameters is None else f"{cost.parameters:,}", f"{cost.learned:,}",
    ]  # fmt: skip


def _notes(outcome: Outcome) -> str:
    notes = [] if outcome.failed is None else [f"failed: {outcome.failed}"]
    if outcome.cost is not None and outcome.cost.steps < outcome.cost.wanted:
        notes.append(f"cut short of {outcome.cost.wanted:,} steps")
    return ", ".join([*notes, *(["other code took part"] if outcome.mixed else [])])


def _end(story: Story) -> list[str]:
    failed = [
        f"{story.named(model)}, seed {seed}" for (model, seed), o in story.outcomes.items() if o.failed is not None
    ]
    return [f"Failed or cut short: {'; '.join(failed) or 'none'}."]


# ---------------------------------------------------------------- cells


def _header(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _scored(row: Mapping[str, Any]) -> str:
    if not row["failed"]:
        return f"{row['scored']} (0)"
    reasons = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
    return f"{row['scored']} ({row['failed']}: {reasons})"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell.get("mean") is None:
        return str(cell.get("reason") or "")
    if cell.get("low") is None:
        return f"{cell['mean']:.4g}"
    return f"{cell['mean']:.4g} ({cell['low']:.4g} to {cell['high']:.4g})"


def _against(
    story: Story, seed: int, compared: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, a: str, b: str
) -> str:
    """The difference a - b, whichever way round it stands in the results."""
    for pair in compared.get(metric, ()):
        if {pair["a"], pair["b"]} != {a, b} or pair.get("effect") is None:
            continue
        sign = 1 if pair["a"] == a else -1
        effect = sign * pair["effect"]
        text = f"{effect:+.3g}"
        if pair.get("low") is not None:
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            text += f" ({low:+.3g} to {high:+.3g})"
        p, about = pair.get("p_holm"), story.first["metrics"][metric]
        if p is None:
            return text
        judged = about["by_judge"] and any("judge" in mark for model in (a, b) for mark in story.marks(model, seed))
        if p < ALPHA and about["better"] is not None and not judged:
            text += ", better" if (effect > 0) == (about["better"] == "higher") else ", worse"
        return f"{text}, p {p:.2g}"
    return ""
