"""A look at a few rows through all stages, before money is spent: an HTML page with pictures, and what a whole run would cost."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vlmguard import trace
from vlmguard.pictures import PictureStore
from vlmguard.synth.store import KEPT, Store, Stored


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the rows that are still to be done will take, from those that were done."""

    rows: int
    calls: int
    prompt_tokens: int
    completion_tokens: int


def estimate(pending: int, done: int, spent: dict[str, int]) -> Estimate:
    """Scales what ``done`` rows cost (``spent``) to the ``pending`` ones."""
    share = pending / max(1, done)
    return Estimate(
        pending, *(round(spent.get(name, 0) * share) for name in ("calls", "prompt_tokens", "completion_tokens"))
    )


def page(rows: Sequence[Stored], store: Store, pictures: PictureStore) -> str:
    """One self-contained HTML page; harmful answers are folded away."""
    cards = "\n".join(_card(row, store.steps(row.id), pictures) for row in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>vlmguard synth preview</title><style>{_STYLE}</style></head>
<body><h1>Synthesis preview</h1><p>{len(rows)} rows through all stages. Answers may be harmful and are folded away.</p>
{cards}
</body></html>
"""


def _card(row: Stored, steps: dict[str, tuple[str, Any]], pictures: PictureStore) -> str:
    head = "kept" if row.state == KEPT else f"{row.state}: {row.gate} {row.reason}".strip()
    return f"""<article class="{row.state}">
<h2>{escape(row.id)} <small>{escape(head)}</small></h2>
<div class="columns"><div>{_images(row, pictures)}<p class="asked">{_asked(row)}</p></div>
<div>{_stages(row)}</div></div>
{_answers(row, steps)}
</article>"""


def _images(row: Stored, pictures: PictureStore) -> str:
    names = [part["image"] for message in row.body["messages"] for part in message["parts"] if "image" in part]
    tags = []
    for number, name in enumerate(names, start=1):
        image = pictures.get(name)
        data = base64.b64encode(image.data).decode()
        tags.append(f'<img alt="image {number}" src="data:{image.media_type};base64,{data}">')
    return "".join(tags)


def _asked(row: Stored) -> str:
    turns = [
        f"<b>{escape(message['role'])}</b> "
        + escape(" ".join(part["text"] for part in message["parts"] if "text" in part))
        for message in row.body["messages"]
    ]
    return "<br>".join(turns)


def _stages(row: Stored) -> str:
    if row.result is None:
        return "<p>No trace: the row did not pass.</p>"
    refinement = trace.parse(row.result["trace"])
    levels = " · ".join(
        f"{modality.value} <b>{'absent' if finding is None else finding.level}</b>"
        for modality, finding in refinement.report
    )
    evidence = "".join(
        f"<li><i>{escape(item.source)}, {item.modality.value}</i> {escape(item.observation)}</li>"
        for item in refinement.evidence
    )
    decision = (
        "<p class='forward'>forward unchanged</p>"
        if refinement.prompt is None
        else f"<blockquote>{escape(refinement.prompt)}</blockquote>"
    )
    return (
        f"<p>{escape(refinement.understanding)}</p><p class='levels'>{levels}</p><ul>{evidence}</ul>"
        f"<p>{escape(refinement.analysis)}</p>{decision}"
    )


def _answers(row: Stored, steps: dict[str, tuple[str, Any]]) -> str:
    answers = [("unsafe answer", row.body["unsafe"]), ("safe answer", row.body["safe"])]
    answers += [(name, value) for name, (_, value) in sorted(steps.items()) if name.startswith("answer.")]
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in answers if text is not None)
    return f"<details><summary>Answers (may be harmful)</summary><dl>{told}</dl></details>" if told else ""


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.25rem; margin: 1.25rem 0; }
article.kept { border-left: 4px solid #2e8b57; } article.rejected { border-left: 4px solid #c77b00; }
article.failed { border-left: 4px solid #b22; }
h2 { font-size: 1.05rem; margin: 0 0 .75rem; } h2 small { font-weight: normal; opacity: .75; margin-left: .5rem; }
.columns { display: grid; grid-template-columns: minmax(12rem, 1fr) 2fr; gap: 1.5rem; }
@media (max-width: 40rem) { .columns { grid-template-columns: 1fr; } }
img { max-width: 100%; border-radius: 4px; border: 1px solid var(--line); }
.asked, dd { overflow-wrap: anywhere; } .levels { opacity: .85; } .forward { color: #2e8b57; font-weight: 600; }
blockquote { margin: .5rem 0; padding: .5rem .9rem; background: var(--soft); border-radius: 6px; white-space: pre-wrap; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0; white-space: pre-wrap; }
"""


def write_page(rows: Sequence[Stored], store: Store, pictures: PictureStore, file: Path) -> None:
    """The page on disk. Rows that could not be read have nothing to show."""
    file.write_text(page([row for row in rows if "messages" in row.body], store, pictures), encoding="utf-8")
