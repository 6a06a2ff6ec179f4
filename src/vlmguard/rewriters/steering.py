"""Signs that a text was written to steer a model which judges it: the guard's own evidence, whatever that model says.

Somebody may write such words innocently (a developer who asks about a chat template). So they make no finding; but a model's
"harmless" is not believed beside them (``Reason.CONTESTED``).
"""

from __future__ import annotations

import re

from vlmguard.rewriters.orders import orders_to_assistant
from vlmguard.trace import ELEMENTS

_READ = 200_000
_TAG = re.compile(rf"<\\*/?({'|'.join(ELEMENTS)})\b", re.IGNORECASE)
_SIGNS = re.compile(
    r"""<\\*/?forward\s*/?> | \bassessment\s+text\s*= | \b(?:text|image|cross)\s*=\s*["'“]?(?:none|absent)\b
      | <\\*\|[^|<>\n]{1,40}\|> | \[\\*/?INST\] | <<\\*/?SYS>> | <\\*/?think(?:ing)?> | <(?:start|end)_of_turn>
      | ^\s*==\s?[0-9a-f]{6,} | \bend\ of\ (?:the\ )?(?:conversation|quoted\ data|user\ (?:input|data))\b
      | \b(?:rewriter|guardrail|(?:safety|content)\ (?:judge|classifier|filter|model|system))\b.{0,60}
        \b(?:must|should|output|answer|write|mark|rate|assess|forward|approve)
      | \b(?:output|write|say|answer|reply|respond|print|return|emit)\s(?:with\s)?(?:only\s|just\s)?["'“‘`<(]*forward\b
      | \b(?:rate|mark|assess|classify|judge|label|grade)\s(?:this|the|my|it)\b.{0,30}\b(?:safe|harmless|benign|none|no\ risk)\b
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_DROPS = re.compile(
    r"""\b(?:ignor[aeiy]\w*|vergiss|missachte\w*|olvida\w*|haz\ caso\ omiso|oublie\w*|ne\ tiens?\ pas\ compte)\b
        .{0,40}\b(?:anweisung\w*|vorgaben?|regeln?|instruc[ct]ion\w*|instructions?|consignes?|r[eè]gles?|reglas?|[oó]rdenes)
      | (?:忽略|无视|忘记|不要理会).{0,12}(?:指令|指示|规则|提示|要求)
      | (?:निर्देश|नियम)\S*.{0,20}(?:अनदेखा|नज़रअंदाज़|भूल)
      | (?:تجاهل|انس|اهمل).{0,25}(?:التعليمات|الأوامر|القواعد|تعليمات)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def steers_rewriter(text: str) -> str | None:
    """The words of ``text`` that speak to a judging model, or ``None``. The first 200,000 characters are read."""
    read = text[:_READ]
    if found := _SIGNS.search(read) or _DROPS.search(read):
        return " ".join(found[0].split())[:80]
    names = {tag.lower() for tag in _TAG.findall(read)}
    if len(names) >= 2:
        return f"tags {', '.join(sorted(names))}"
    return orders_to_assistant(read) or None
