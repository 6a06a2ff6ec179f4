"""Owns how much a text looks like words: the measure by which a decoded reading is believed or dropped.

The English vocabulary is ``words_en.txt``; of the other languages a few dozen of the words that every sentence has are
enough to tell a sentence from noise. Vocabulary is read at first use (about 10 ms).
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib.resources import files

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SAMPLE = 3_000
"""Characters looked at: a third each of start, middle and end of a longer text."""
_RANKS = {1: 400, 2: 42_000, 3: 6_000, 4: 16_000}
"""Short strings are easily words by accident, so only the frequent ones count. By length; longer words all count."""
_LONGEST = 20

_OTHERS = {
    "es": "el la los las un una unos de del y en que es son está están por para con como se su sus lo al más pero este esta "
    "esto cómo cuál cuándo dónde quién me mi mis tu te le les nos hay ser puedo puede puedes tengo quiero hacer fabricar casa "
    "porque sin sobre también muy hola gracias hoy fue era entre hasta desde ese esa eso dime dame explica explicame paso "
    "pasos cada todo todos nada alguien persona dinero nadie ninguna manera forma instrucciones escribe crear robar matar",
    "de": "der die das den dem des ein eine einen einem einer und in zu ist sind war nicht mit auf für von im am an als auch "
    "es ich du er sie wir ihr mein meine dein sein wie was wer wo wann warum welche dass wenn aber oder bei nach über kann "
    "können muss habe hat haben wird werden noch nur so aus um diese dieser dieses bitte mich mir uns man hause schritt "
    "anleitung erkläre schreibe zeige mache machen bauen jemanden jemand geld ohne alle gegen durch zum zur mehr sehr gut",
    "fr": "le la les un une des de du et en est sont était que qui quoi quel quelle quand où comment pourquoi ne pas plus pour "
    "par avec dans sur au aux ce cet cette ces il elle nous vous ils elles je tu mon ma mes ton son sa ses leur mais ou donc si "
    "se on peut peux faut faire fabriquer être avoir ai as avons avez ont très aussi sans bonjour merci moi dit dire "
    "explique écris étapes instructions quelqu maison argent tout tous toute chez vers entre comme fait",
    "it": "il lo gli un una uno di del della dei delle sono era che chi cosa come quando dove perché non con per su da dal nel "
    "nella al alla se si mi ti ci vi mio mia tuo suo questo questa più ma anche molto ciao grazie fare posso può degli sul "
    "spiega scrivi senza tutti casa passo istruzioni qualcuno soldi costruire",
    "pt": "o os um uma do da dos das em no na nos nas que são está não com para por como se seu sua mais mas este esta isto "
    "você eu ele ela meu minha foi quando onde quem porque também muito fazer posso pode ao pelo pela até tem ter explique "
    "escreva passo casa sem alguém dinheiro instruções",
    "nl": "de het een en van in is zijn was niet met op voor dat die te ik je jij hij zij wij mijn wat wie waar wanneer waarom "
    "hoe deze dit er aan ook maar als om naar kan kunnen moet heb heeft hebben wordt worden nog door bij uit maak maken iemand",
    "ru": "и в не на я что с как это по но из у за то все так же от для он она мы вы они его её бы меня мне только было быть "
    "если или где кто когда почему сделать можно нужно мой дома без чтобы объясни расскажи напиши",
}


@cache
def vocabulary() -> dict[str, int]:
    """English word → its rank, 0 the most frequent."""
    text = files("vlmguard.perception").joinpath("words_en.txt").read_text(encoding="utf-8")
    words = (line for line in text.splitlines() if not line.startswith("#"))
    return {word: rank for rank, word in enumerate(words)}


@cache
def common_words() -> frozenset[str]:
    """The vocabulary without the short words that are easily one by accident: what ``is_word`` knows, in small letters."""
    return frozenset(word for word, rank in vocabulary().items() if rank < _RANKS.get(len(word), 1 << 30))


@cache
def _other_words() -> dict[str, frozenset[str]]:
    return {language: frozenset(words.split()) for language, words in _OTHERS.items()}


def is_word(token: str) -> bool:
    """Whether ``token`` (any case) is an English word, frequent enough for its length to be no accident."""
    token = token.lower().replace("’", "'")
    return token in common_words() or (token.endswith("'s") and token not in vocabulary() and is_word(token[:-2]))


def sample(text: str, most: int = _SAMPLE) -> str:
    """``text``, or start, middle and end of a long one."""
    if len(text) <= most:
        return text
    third, middle = most // 3, len(text) // 2
    return f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"


def sense(text: str) -> float:
    """How much of ``text`` is words, in [0, 1]: by letters in English, by tokens in other languages.

    A sentence of English has 0.8 or more, one of the other known languages 0.5 or more, noise and ciphers below 0.3.
    """
    tokens = WORD.findall(sample(text))
    if not tokens:
        return 0.0
    letters = sum(map(len, tokens))
    # The many one- and two-letter words among noise count half.
    known = sum(len(token) if len(token) > 2 else len(token) / 2 for token in tokens if is_word(token))
    english = known / letters
    if english >= 0.8 or len(tokens) < 4:
        return english
    return max(english, *(_sense_in(words, tokens, letters) for words in _other_words().values()))


def _sense_in(words: frozenset[str], tokens: list[str], letters: int) -> float:
    """Sense in a language of which only common words are known: these have to be many tokens and many of the letters."""
    known = [token for token in tokens if len(token) > 1 and token.lower() in words]
    if len({token.lower() for token in known if len(token) > 2}) < 2:
        return 0.0
    return min(1.0, 1.2 * len(known) / len(tokens), 2.2 * sum(map(len, known)) / letters)


def distinct_words(text: str) -> int:
    """How many different known words of three letters or more ``text`` (sampled) has, of any language known here."""
    tokens = {token.lower() for token in WORD.findall(sample(text)) if len(token) > 2}
    english = sum(map(is_word, tokens))
    return max(english, *(len(tokens & words) for words in _other_words().values()))


def words_in(text: str) -> int:
    """How many tokens of ``text`` (sampled) are known words of three letters or more."""
    return sum(len(token) > 2 and is_word(token) for token in WORD.findall(sample(text)))


def segment(letters: str) -> list[str] | None:
    """``howtomake`` → ``["how", "to", "make"]``, keeping case; ``None`` where it does not fall into words.

    The likeliest split under a unigram model in which frequency falls as 1 / rank. Looks at most at 1,000 letters.
    """
    letters = letters[:1000]
    lower = letters.lower()
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(lower) + 1):
        best.append(
            max(
                (best[start][0] + _log_probability(lower[start:end]), start)
                for start in range(max(0, end - _LONGEST), end)
            )
        )
    words: list[str] = []
    end = len(letters)
    while end:
        start = best[end][1]
        words.append(letters[start:end])
        end = start
    words.reverse()
    known = sum(len(word) for word in words if is_word(word))
    if known < 0.9 * len(letters) or len(letters) < 2.7 * len(words):
        return None
    return words


def _log_probability(word: str) -> float:
    rank = vocabulary().get(word)
    if rank is None or not is_word(word):
        return -9.0 - 5.0 * len(word)
    return -math.log((rank + 12) * 11.0)
