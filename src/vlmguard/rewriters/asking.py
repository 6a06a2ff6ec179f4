"""Owns whether words ask for something: what in a picture is a request, and what is a label, a price list or a caption.

A label asks for nothing: alone it is context, and what a prompt makes of it is scored as their composed intent. Only what
asks (a verb that an assistant is asked with, a question, a wish, a heading of something to be told, a list left to fill) is a
request of the picture's own. A prompt that hands control to the picture makes a request of anything that stands there.
"""

from __future__ import annotations

import re

from vlmguard.perception.wordlike import WORD, distinct_words, is_word, sense
from vlmguard.rewriters.pointing import asks_to_follow

_READ_CHARACTERS = 20_000
_WINDOW = 60
"""Words of a request that are read after the one that marks it."""

# ---------------------------------------------------------------------------------------------------------------------
# Requests

_VERB_WORDS = (
    "explain list describe write give show tell teach provide create generate draft compose design develop outline detail "
    "demonstrate illustrate instruct guide help suggest recommend name translate summarise summarize discuss plan prepare produce "
    "script invent imagine pretend act answer convince persuade prove advise craft formulate devise propose elaborate identify "
    "compile construct build make find hack steal print output reveal say repeat roleplay play simulate continue complete finish "
    "solve calculate compute compare rewrite paraphrase argue justify defend promote advertise rank rate recite walk "
    "assist enumerate present share send get buy sell order book hire kill murder poison attack bomb burn destroy hurt harm insult "
    "mock harass threaten blackmail extort bribe forge counterfeit launder smuggle traffic kidnap rob cheat deceive trick "
    "scam phish spy track stalk dox bypass break crack exploit disable sabotage spread post fake manipulate "
    "encourage incite radicalise radicalize recruit groom let state specify clarify analyse analyze investigate evaluate"
)
_QUESTION_WORDS = "how what where when why which who whom whose"
_AUXILIARIES = "can could would should will is are do does did may might must shall"
_HEADING_WORDS = (
    r"methods?|steps?|ways?|lists?|guide|instructions?|tips|techniques?|tricks|ideas|strategies|tactics|recipes?|reasons|tools|"
    r"materials|ingredients|examples?|procedures?|process|plan|tutorial|scripts?|messages?|phrases|slogans|jokes|things|places|names|"
    r"manual|checklist|outline|blueprint|schedule|formula|code|letter|speech|essay|story|poem|arguments|excuses|facts"
)
_HEADING = (
    rf"(?:an? |the |some |detailed |complete |full |\d+ |top |best |easy |effective |step[- ]by[- ]step )*(?:{_HEADING_WORDS})"
    r"(?=\s+(?:to|of|for|on|in|that|about|by|from|with|how|why|against)\b)"
)
NOUN_HEADING = re.compile(
    r"(?:a |an |the |some |detailed |\d+ |top |best |step-by-step )*(?:methods?|steps?|ways?|lists?|guide|instructions?|tips|techniques?|"
    r"tricks|ideas|strategies|tactics|recipes?|reasons|tools|materials|ingredients|examples?|procedures?|process|plan|tutorial|"
    r"scripts?|messages?|phrases|slogans|jokes|things|places|names|manual|checklist|outline)"
    r"(?=\s+(?:to|of|for|on|in|that|about|by|from|with|how|why|you|i|we)\b|\s*:?\s*\Z)",
    re.IGNORECASE,
)
"""A heading that amounts to a request to give what it names."""
_BEGIN = r"(?:\A|(?<=[.!?:;,\"“”'*>)\]•|-] )|(?<=\n)|(?<=\d[.)] )|(?<=\d[.)])|(?<=please )|(?<=now )|(?<=then )|(?<=and )|(?<=to ))"
_ASKING = re.compile(
    rf"{_BEGIN}(?:{'|'.join(_VERB_WORDS.split())})\b(?! (?:is|are|was|were|of)\b)"
    rf"|{_BEGIN}(?:{'|'.join(_QUESTION_WORDS.split())})\b(?=\s+\w+\s+\w)"
    rf"|{_BEGIN}(?:{'|'.join(_AUXILIARIES.split())}) (?:you|i|we|he|she|it|they|one|someone|somebody|anyone|the|a|my|this|that|there)\b"
    rf"|{_BEGIN}{_HEADING}"
    rf"|{_BEGIN}[a-z]{{2,14}}ing (?:an?|the|your|my|his|her|their|someone|somebody|people|\w+['’]s)\b"
    r"|\bhow (?:to|do|does|did|can|could|would|should|i|you|we|much|many)\b|\bstep[- ]by[- ]step\b"
    r"|\b(?:i|we) (?:want|need|wish|would like|am looking|are looking|have to|must|am trying|plan|intend)\b"
    r"|\bi'(?:d like|m looking|m trying)\b|\b(?:can|could|would|will) you\b|\bhelp (?:me|us)\b"
    r"|\b(?:tell|show|teach|give|send) (?:me|us)\b|\byour (?:task|job|role) (?:is|will)\b|\w\s?\?(?=\s|\Z|[\"'”)])"
    # Spanish, German, French, Italian, Portuguese
    r"|\b(?:cómo|explica|escribe|describe|dime|enumera|haz|crea|genera|muéstrame|dame|enséñame|ayúdame|métodos)\b"
    r"|\b(?:pasos para|formas de|quiero)\b"
    r"|\b(?:wie (?:man|kann|baue|mache|stelle)|erkläre?|schreibe?|beschreibe?|nenne|zeige?|gib|liste|erstelle|hilf)\b"
    r"|\b(?:anleitung|methoden|schritte|ich (?:will|möchte|brauche))\b"
    r"|\b(?:comment|explique[rz]?|écri[st]|écrivez|décri[st]|décrivez|donne[rz]?|montre[rz]?|énumère|crée[rz]?|aide[rz]?)\b"
    r"|\b(?:étapes pour|méthodes|je veux)\b"
    r"|\b(?:come (?:si|fare|posso)|spiega|scrivi|descrivi|elenca|como (?:fazer|posso)|explique|escreva|descreva|liste)\b"
    # Chinese, Hindi, Arabic
    r"|如何|怎么|怎样|请|告诉我|写|列出|解释|描述|步骤|方法|教程|给我|帮我|[？؟]|कैसे|बताओ|बताइए|लिखो|लिखिए|तरीके|समझाओ|كيف|اشرح|اكتب|أعطني|خطوات|طرق",
    re.IGNORECASE,
)
_STOP = re.compile(r"[.!?。！？](?=\s|\Z)|[。！？]")
_NUMBERS_ONLY = re.compile(r"(?:\s*\(?\d{1,2}[.)]?)+\s*\Z")


def requests(text: str) -> list[str]:
    """The stretches of ``text`` that ask for something, in order, each from the start of its sentence; [] for a mere label.

    Sentences without marks, as signs and lists have them, are cut after ``_WINDOW`` words.
    """
    text = text[:_READ_CHARACTERS]
    spans: list[tuple[int, int]] = []
    for match in _ASKING.finditer(text):
        if spans and match.start() < spans[-1][1]:
            continue
        if not any(map(str.isalpha, match[0])) and not _words_before(text, match.start()):
            continue
        spans.append(_sentence(text, match.start(), match.end()))
    return [" ".join(text[start:end].split()) for start, end in spans if text[start:end].strip()]


def _words_before(text: str, at: int) -> bool:
    """A question mark ends a question only after words."""
    return distinct_words(text[max(0, at - 60) : at + 1]) > 1 or not text[max(0, at - 20) : at + 1].isascii()


def _sentence(text: str, start: int, end: int) -> tuple[int, int]:
    left = max(0, start - 160)
    begin = max((left + stop.end() for stop in _STOP.finditer(text[left:start])), default=left)
    if begin == left and left:
        begin = start
    stop = len(text)
    for words, word in enumerate(re.finditer(r"\S+", text[end:]), start=1):
        if words > _WINDOW or (_STOP.search(word[0]) and not _NUMBERS_ONLY.match(word[0])):
            stop = end + word.end()
            break
    return begin, max(stop, end)


# ---------------------------------------------------------------------------------------------------------------------
# Statements

_TELLING_WORDS = (
    "is are was were be been will would can could must should may might have has had do does did you we they he she i it not who that "
    "because if them us our your his her their"
)
_TELLING = frozenset(_TELLING_WORDS.split())
_SENTENCE_WORDS = 6


def statements(text: str) -> list[str]:
    """The sentences of ``text`` that say something in full, of at least six words: a threat or a slur is one, a price list none."""
    said: list[str] = []
    for sentence in re.split(r"(?<=[.!?。！？])\s+|\n\s*\n", text[:_READ_CHARACTERS]):
        tokens = [word.lower() for word in WORD.findall(sentence)]
        if len(tokens) >= _SENTENCE_WORDS and not _TELLING.isdisjoint(tokens) and sense(sentence) >= 0.75:
            said.append(" ".join(sentence.split()))
    return said


def says_words(text: str) -> bool:
    """Whether a reading holds any word at all. Texture, logos and serial numbers read as letters that hold none."""
    return (
        distinct_words(text) > 0
        or not text.isascii()
        or any(len(word) > 2 and is_word(word) for word in WORD.findall(text))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Prompts that leave the asking to the picture

_CARRIER_WORDS = (
    # what it is about: a picture and what stands in it
    "image images picture pictures photo photos photograph screenshot screen scan figure sign note poster document page attachment label "
    "text texts words word writing written message sentence sentences paragraph line lines caption title heading topic content contents "
    "list lists item items point points bullet bullets number numbers numbered step steps blank blanks empty gap gaps table instruction "
    "instructions command commands order orders direction directions request prompt question questions task tasks problem query "
    "above below attached here there inside within shown given provided uploaded "
    # what to do with it
    "follow do does obey execute perform carry out comply act answer respond reply complete fill finish continue read look see solve "
    "handle process proceed implement fulfil fulfill address expand elaborate generate write give provide produce detail details detailed "
    "explain help assist tell say says asks ask asked tells wants states reads shows contains "
    # and the words around it
    "please kindly just now then first the a an this that these those it its each every all any what whatever which as is are in on of "
    "at to from by with for and or me my your you i can could would will should full complete exactly only carefully below not "
    "be so if has have according based short long english one two three result results"
)
_CARRIER = frozenset(_CARRIER_WORDS.split())
_CONTROL = re.compile(
    r"\b(?:follow|do|obey|execute|perform|carry out|comply|act|answer|respond|reply|complete|fill|finish|continue|solve|handle|proceed|"
    r"implement|fulfil+|address|expand|elaborate|help|assist|generate|write|provide|produce)\b",
    re.IGNORECASE,
)
_READING = re.compile(
    r"\b(?:what|which|where|who|how many|how much|when|is|are|does) (?:\w+ ){0,6}?(?:say|says|said|written|shown|read|means?|show|there|"
    r"colou?r|it|this)\b[^.]*\?|\b(?:translate|transcribe|summari[sz]e|describe|caption|ocr|extract|copy)\b",
    re.IGNORECASE,
)
_MOST_WORDS = 40


def is_mere_carrier(prompt: str) -> bool:
    """Whether a prompt has no content of its own: words for pictures, pointing and carrying out, nothing else."""
    tokens = [word.lower() for word in WORD.findall(prompt[:_READ_CHARACTERS])]
    return 0 < len(tokens) <= _MOST_WORDS and _CARRIER.issuperset(tokens) and _CONTROL.search(prompt) is not None


def hands_over(prompt: str) -> bool:
    """Whether ``prompt`` makes a request of whatever stands in the picture; asking what stands there does not."""
    return asks_to_follow(prompt) or (is_mere_carrier(prompt) and _READING.search(prompt) is None)
