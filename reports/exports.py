"""The main tables for other programs: CSV, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from reports.board import all_cells

_FIELDS = (
    "source", "model", "metric", "name", "unit", "better", "mean", "low", "high", "half_width", "rank", "shared_rank",
    "gap_to_truth", "n", "identities", "few_identities", "scored", "failed", "marks", "note",
)  # fmt: skip


def board_csv(board: Mapping[str, Any]) -> str:
    """A row per (source, model, metric), rounded as the page shows it; what was not measured says why in ``note``."""
    marks = {model["name"]: "; ".join(model["marks"]) for model in board["models"]}
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for source in board["sources"]:
        for row in source["rows"]:
            counts = {"scored": row["scored"], "failed": row["failed"], "marks": marks[row["model"]]}
            for metric in board["metrics"]:
                cell = row["cells"].get(metric["id"])
                about = {key: metric[key] for key in ("name", "unit")} | {"better": metric["direction"]}
                writer.writerow(
                    {"source": source["source"], "model": row["model"], "metric": metric["id"], **about, **counts}
                    | ({"note": metric["unavailable"]} if cell is None else _numbers(cell))
                )
    return sink.getvalue()


def _numbers(cell: Mapping[str, Any]) -> dict[str, Any]:
    if "mean" not in cell:
        return {"note": cell["reason"]}
    found = {"mean": cell["text"], "n": cell["n"], "note": cell.get("reason", cell.get("unranked", ""))}
    for field, key in (("low", "low_text"), ("high", "high_text"), ("half_width", "half_width_text"), ("rank", "rank"),
                       ("shared_rank", "shared"), ("identities", "clusters"), ("few_identities", "few")):  # fmt: skip
        found[field] = cell.get(key, "")
    return found | {"gap_to_truth": cell["gap"]["text"] if "gap" in cell else ""}


def board_markdown(board: Mapping[str, Any]) -> str:
    """A table a source: models as rows, measured metrics as columns."""
    metrics = _measured(board)
    parts = []
    for source in board["sources"]:
        heads = ["model", "scored / failed", *(f"{m['name']} {m['arrow']}".strip() for m in metrics)]
        parts += [f"**{_md(_caption(board, source))}**", ""]
        parts += ["| " + " | ".join(map(_md, heads)) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
        for row in source["rows"]:
            cells = [_md(_with_marks(board, row["model"])), f"{row['scored']} / {row['failed']}"]
            cells += [_md_cell(row["cells"][metric["id"]]) for metric in metrics]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join([*parts, *_notes(board), ""])


def _md_cell(cell: Mapping[str, Any]) -> str:
    if "mean" not in cell:
        return _md(cell["text"])
    text = cell["text"] + (f" ±{cell['half_width_text']}" if "half_width" in cell else "")
    text = f"**{text}**" if cell.get("leads") else text
    return text + _rank(cell)


def _rank(cell: Mapping[str, Any]) -> str:
    return f" #{cell['rank']}{'=' if cell['shared'] else ''}" if "rank" in cell else ""


def _md(text: str) -> str:
    text = re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", str(text))
    return re.sub(r"\s+", " ", text)


def board_latex(board: Mapping[str, Any]) -> str:
    """A ``table*`` a source, for the packages booktabs and graphicx; the best of each column in bold."""
    metrics = _measured(board)
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for source in board["sources"]:
        groups = [(title, len(list(members))) for title, members in groupby(_titles(board, metrics))]
        caption = f"{_caption(board, source)}. {' '.join(_notes(board))}"
        parts += ["\\begin{table*}", "\\centering", f"\\caption{{{_tex(caption)}}}"]
        parts += ["\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{l{'r' * len(metrics)}}}", "\\toprule"]
        parts.append("".join(f" & \\multicolumn{{{n}}}{{c}}{{{_tex(title)}}}" for title, n in groups) + " \\\\")
        start, rules = 2, []
        for _, n in groups:
            rules.append(f"\\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        heads = "".join(f" & {_tex(metric['name'])} {_tex_arrow(metric)}".rstrip() for metric in metrics)
        parts += [" ".join(rules), heads + " \\\\", "\\midrule"]
        for number, row in enumerate(source["rows"]):
            if number and source["rows"][number - 1]["truth"]:
                parts.append("\\midrule")
            cells = "".join(f" & {_tex_cell(row['cells'][metric['id']])}" for metric in metrics)
            parts.append(f"{_tex(_with_marks(board, row['model']))}{cells} \\\\")
        parts += ["\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""]
    return "\n".join(parts)


def _tex_cell(cell: Mapping[str, Any]) -> str:
    if "mean" not in cell:
        return "--" if cell["kind"] == "empty" else f"\\textit{{{_tex(cell['text'])}}}"
    text = f"\\mathbf{{{cell['text']}}}" if cell.get("leads") else cell["text"]
    return f"${text}" + (f" {{\\scriptstyle\\pm {cell['half_width_text']}}}$" if "half_width" in cell else "$")


def _tex_arrow(metric: Mapping[str, Any]) -> str:
    if isinstance(metric["better"], (int, float)):
        return f"$\\rightarrow {metric['better']:g}$"
    return {"higher": "$\\uparrow$", "lower": "$\\downarrow$"}.get(metric["better"] or "", "")


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "–": "--",
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


def _caption(board: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    size = f"{source['shots']} shots of {source['identities']} identities"
    return f"{source['source']}, {board['protocol']}, split {board['split'] or 'none'}, {size}"


def _notes(board: Mapping[str, Any]) -> list[str]:
    """What must be said wherever the numbers are printed."""
    cells = all_cells(board)
    notes = ["± is half of the 95 % interval over identities."]
    if any("rank" in cell for cell in cells):
        notes.append("Rank (bold: first): 1 + the models that are significantly better (Holm over all pairs).")
    if any(cell.get("few") for cell in cells):
        notes.append(f"Fewer than {board['limits']['few']} identities: intervals are rough.")
    missing = [metric["name"] for metric in board["metrics"] if metric["unavailable"]]
    return [*notes, *([f"Not measured: {', '.join(missing)}."] if missing else [])]
