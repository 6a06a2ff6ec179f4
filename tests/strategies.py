"""Values of our own types for hypothesis: everything that the constructors admit."""

from __future__ import annotations

from hypothesis import strategies as st

from vlmguard import trace
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_tags = st.sampled_from(
    [
        f"<{slash}{back}{name}{end}"
        for name in trace.ELEMENTS
        for slash in ("", "/")
        for back in ("", "\\", "\\\\")
        for end in (">", "/>", "", " x='1'>")
    ]
)
sentences = (
    st.lists(st.one_of(st.text(min_size=1, max_size=30), _tags), min_size=1, max_size=4)
    .map("".join)
    .filter(_encodable)
    .map(str.strip)
    .filter(bool)
)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
sources = st.from_regex(r"[a-z][a-z0-9]{0,8}( [a-z0-9]{1,4})?", fullmatch=True)


evidence = st.builds(Evidence, st.sampled_from(Modality), sources, sentences)
risks = st.builds(Finding, st.sampled_from([Level.LOW, Level.MEDIUM, Level.HIGH]), words, sentences, st.none())
findings = st.one_of(st.none(), st.just(Finding(Level.NONE)), risks)
reports = st.builds(RiskReport, findings, findings, findings)
forwards = st.builds(
    Refinement,
    sentences,
    reports,
    st.lists(evidence, max_size=3).map(tuple),
    st.one_of(st.just(""), sentences),
    st.none(),
)
rewrites = st.builds(
    Refinement,
    sentences,
    st.builds(RiskReport, risks, findings, findings),
    st.lists(evidence, min_size=1, max_size=3).map(tuple),
    sentences,
    sentences,
)
refinements = st.one_of(forwards, rewrites)
