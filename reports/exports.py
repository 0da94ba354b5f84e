"""The tables of the page for other programs: CSV, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from reports.board import all_cells, lead_metric, models_by_rank
from reports.facts import marks_of

_FIELDS = (
    "source", "model", "metric", "name", "unit", "better", "mean", "low", "high", "half_width", "rank", "shared_rank",
    "gap_to_truth", "n", "identities", "few_identities", "scored", "failed", "marks", "note",
)  # fmt: skip

_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")


def board_csv(board: Mapping[str, Any]) -> str:
    """A row per (source, model, metric), rounded as the page shows it; what was not measured says why in ``note``."""
    marks = {model["name"]: "; ".join(model["marks"]) for model in board["models"]}
    lines = [",".join(_FIELDS)]
    for source in board["sources"]:
        for row in source["rows"]:
            counts = {"scored": row["scored"], "failed": row["failed"], "marks": marks[row["model"]]}
            for metric in board["metrics"]:
                cell = row["cells"].get(metric["id"])
                about = {key: metric[key] for key in ("name", "unit")} | {"better": metric["direction"]}
                found = {"source": source["source"], "model": row["model"], "metric": metric["id"], **about, **counts}
                found |= {"note": metric["unavailable"]} if cell is None else _numbers(cell)
                lines.append(",".join(_csv_field(found.get(name, "")) for name in _FIELDS))
    return "\n".join([*lines, ""])


def _csv_field(value: object) -> str:
    """Quoted where it must be (RFC 4180); text that a spreadsheet would compute is kept text by an apostrophe."""
    text = "" if value is None else str(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return '"{}"'.format(text.replace('"', '""')) if re.search(r'[",\r\n]', text) else text


def _numbers(cell: Mapping[str, Any]) -> dict[str, Any]:
    if "mean" not in cell:
        return {"note": cell["reason"]}
    found = {"mean": cell["text"], "n": cell["n"], "note": cell.get("reason", cell.get("unranked", ""))}
    for field, key in (("low", "low_text"), ("high", "high_text"), ("half_width", "half_width_text"), ("rank", "rank"),
                       ("shared_rank", "shared"), ("identities", "clusters"), ("few_identities", "few")):  # fmt: skip
        found[field] = cell.get(key, "")
    return found | {"gap_to_truth": cell["gap"]["text"] if "gap" in cell else ""}


def board_markdown(board: Mapping[str, Any]) -> str:
    """A table a source, ordered as the page is at first: models as rows, measured metrics as columns; and ablations."""
    metrics = _measured(board)
    parts = []
    for source in board["sources"]:
        heads = ["model", "scored / failed", *(f"{m['name']} {m['arrow']}".strip() for m in metrics)]
        parts += [f"**{_md(_caption(board, source))}**", ""]
        parts += ["| " + " | ".join(map(_md, heads)) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
        for row in _as_shown(board, source):
            cells = [_md(_with_marks(board, row["model"])), f"{row['scored']} / {row['failed']}"]
            cells += [_md_cell(row["cells"][metric["id"]], source["compared"]) for metric in metrics]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
        if source["ablation"]:
            heads, rows = _ablation(board, source["ablation"])
            parts += [f"**{_md(ablation_caption(board, source))}**", ""]
            parts += ["| " + " | ".join(map(_md, heads)) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
            parts += [f"| {' | '.join(map(_md, row))} |" for row in rows]
            parts.append("")
    return "\n".join([*parts, *_notes(board, all_cells(board)), ""])


def _as_shown(board: Mapping[str, Any], source: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows in the order of the page: the ground truth, then models by the leading metric."""
    return [*(row for row in source["rows"] if row["truth"]), *models_by_rank(source, lead_metric(board))]


def _ablation(board: Mapping[str, Any], ablation: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of an ablation table."""
    metrics = {metric["id"]: metric for metric in board["metrics"]}
    heads = ["model", *(f"{metrics[name]['name']} {metrics[name]['arrow']}".strip() for name in ablation["metrics"])]
    rows = [
        [f"{row['model']} ({row['what']})", *(_ablation_cell(row["cells"].get(name)) for name in ablation["metrics"])]
        for row in ablation["rows"]
    ]
    return heads, rows


def _ablation_cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    if "change" not in cell:
        return cell["text"] + (" (not ranked)" if "unranked" in cell else "")
    change = cell["change"]
    ends = "" if change["low"] is None else f" ({change['low']} to {change['high']})"
    sign = "" if change["effect"].startswith("-") else "+"
    return f"{cell['text']} {sign}{change['effect']}{ends} ({change['verdict']})"


def _md_cell(cell: Mapping[str, Any], compared: int | None) -> str:
    if "mean" not in cell:
        return _md(cell["text"])
    text = f"**{cell['text']}**" if cell.get("leads") else cell["text"]
    text += f" ±{cell['half_width_text']}" if "half_width" in cell else ""
    return text + _md(_behind(cell, compared))


def _behind(cell: Mapping[str, Any], compared: int | None) -> str:
    """Rank, ``*`` for few identities, and marks."""
    rank = f" #{cell['rank']}{'=' if cell['shared'] else ''}" if "rank" in cell else ""
    marks = "; ".join(marks_of(cell, compared))
    return rank + (" *" if cell.get("few") else "") + (f" ({marks})" if marks else "")


def _md(text: str) -> str:
    text = re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", str(text))
    return re.sub(r"\s+", " ", text)


def board_latex(board: Mapping[str, Any]) -> str:
    """A ``table*`` a source, for the packages booktabs and graphicx; the best of each column in bold."""
    metrics = _measured(board)
    if not metrics:
        return "% There is no table: nothing was measured."
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for source in board["sources"]:
        groups = [(title, len(list(members))) for title, members in groupby(_titles(board, metrics))]
        parts += ["\\begin{table*}", "\\centering", f"\\caption{{{_tex(caption_of(board, source))}}}"]
        parts += ["\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{l{'r' * len(metrics)}}}", "\\toprule"]
        parts.append("".join(f" & \\multicolumn{{{n}}}{{c}}{{{_tex(title)}}}" for title, n in groups) + " \\\\")
        start, rules = 2, []
        for _, n in groups:
            rules.append(f"\\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        heads = "".join(f" & {_tex(metric['name'])} {_tex_arrow(metric)}".rstrip() for metric in metrics)
        parts += [" ".join(rules), heads + " \\\\", "\\midrule"]
        rows = _as_shown(board, source)
        for number, row in enumerate(rows):
            if number and rows[number - 1]["truth"]:
                parts.append("\\midrule")
            cells = "".join(f" & {_tex_cell(row['cells'][metric['id']], source['compared'])}" for metric in metrics)
            parts.append(f"{_tex(_with_marks(board, row['model']))}{cells} \\\\")
        parts += ["\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""]
        if source["ablation"]:
            parts += _tex_ablation(board, source)
    return "\n".join(parts)


def _tex_ablation(board: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    heads, rows = _ablation(board, source["ablation"])
    parts = ["\\begin{table*}", "\\centering", f"\\caption{{{_tex(ablation_caption(board, source))}}}"]
    parts += ["\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", "\\toprule"]
    first, *others = (" & ".join(map(_tex, row)) + " \\\\" for row in (heads, *rows))
    return [*parts, first, "\\midrule", *others, "\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""]


def _tex_cell(cell: Mapping[str, Any], compared: int | None) -> str:
    if "mean" not in cell:
        return "--" if cell["kind"] == "empty" else f"\\textit{{{_tex(cell['text'])}}}"
    number = _tex_number(cell["text"])
    text = f"\\mathbf{{{number}}}" if cell.get("leads") else number
    half = f" {{\\scriptstyle\\pm {_tex_number(cell['half_width_text'])}}}" if "half_width" in cell else ""
    return f"${text}{half}$" + _tex(_behind(cell, compared))


def _tex_number(text: str) -> str:
    """For math mode: ``3.2\\times 10^{-7}`` of ``3.2e-7``."""
    return re.sub(r"e(-?\d+)$", r"\\times 10^{\1}", text)


def _tex_arrow(metric: Mapping[str, Any]) -> str:
    if isinstance(metric["better"], (int, float)):
        return f"$\\rightarrow {metric['better']:g}$"
    return {"higher": "$\\uparrow$", "lower": "$\\downarrow$"}.get(metric["better"] or "", "")


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "×": r"$\times$", "−": "$-$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\rightarrow$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in re.sub(r"\s+", " ", str(text)))


def _measured(board: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [metric for metric in board["metrics"] if metric["unavailable"] is None]


def _titles(board: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = {group["id"]: group["title"] for group in board["groups"]}
    return [titles[metric["group"]] for metric in metrics]


def _with_marks(board: Mapping[str, Any], name: str) -> str:
    marks = next(model["marks"] for model in board["models"] if model["name"] == name)
    return name + (f" ({', '.join(marks)})" if marks else "")


def caption_of(board: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """What a table is of and what must be said with it, wherever it is printed alone."""
    cells = [cell for row in source["rows"] for cell in row["cells"].values()]
    return f"{_caption(board, source)}. {' '.join(_notes(board, cells))}"


def ablation_caption(board: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """As :func:`caption_of`, of a source's ablation."""
    what = f"change against {source['ablation']['whole']} with 95 % interval (Holm over all pairs of models)"
    return f"Ablation: {_caption(board, source)}: {what}."


def _caption(board: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    size = f"{source['shots']} shots of {source['identities']} identities"
    return f"{source['source']}, {board['protocol']}, split {board['split'] or 'none'}, {size}"


def _notes(board: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said wherever these cells are printed."""
    notes = ["± is half of the 95 % interval over identities."]
    if any("rank" in cell for cell in cells):
        notes.append("Rank (bold: first): 1 + the models that are significantly better (Holm over all pairs).")
    if any(cell.get("few") for cell in cells):
        notes.append(f"*: fewer than {board['limits']['few']} identities: intervals are rough.")
    reasons = sorted({cell["unranked"] for cell in cells if "unranked" in cell})
    notes += [f"Not ranked: {reason}." for reason in reasons]
    missing = [metric["name"] for metric in board["metrics"] if metric["unavailable"]]
    return [*notes, *([f"Not measured: {', '.join(missing)}."] if missing else [])]
