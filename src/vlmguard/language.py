"""Which language a text is in: by script first, then by the small words that every sentence of a language has.

Own code, since the libraries weighed either load slowly (langid, lingua) or are wrong on a handful of words, and a prompt is
often a handful of words. The answer is "und" (undetermined) rather than a guess.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache

_SAMPLE = 6_000
"""Characters looked at: a third each of start, middle and end of a longer text."""

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("ar", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("bn", re.compile(r"[\u0980-\u09ff]")),
    ("ta", re.compile(r"[\u0b80-\u0bff]")),
    ("te", re.compile(r"[\u0c00-\u0c7f]")),
    ("ka", re.compile(r"[\u10a0-\u10ff]")),
    ("hy", re.compile(r"[\u0530-\u058f]")),
    ("am", re.compile(r"[\u1200-\u137f]")),
)
_PERSIAN = re.compile(r"[\u067e\u0686\u0698\u06af\u06cc\u06a9]")
_URDU = re.compile(r"[\u0679\u0688\u0691\u06ba\u06be\u06d2]")
_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")

_WORDS = {
    "en": "a i so on do my we me by at the of and to in is are was were be been it that this for with as on at by from or an not what how why who when "
    "which where do does did can could should would will have has had i you he she they we my your his her its their me him "
    "them us there here about into than then if but so all any some no please help tell give write make show explain find "
    "get want need between does name list describe following answer question hello thanks",
    "es": "el la los las un una unos de del y en que es son está están por para con como se su sus lo al más pero este esta "
    "esto estos qué cómo cuál cuándo dónde quién me mi mis tu te le les nos hay ser puedo puede tengo quiero hacer cuando "
    "porque sin sobre también muy hola gracias hoy ayer ella nosotros fue era entre hasta desde ese esa eso dime cuánto cuántos cuántas dame haz escribe explica redacta traduce resuelve calcula foto leer tiene tienen puede ayúdame cuéntame al les",
    "de": "der die das den dem des ein eine einen einem einer und in zu ist sind war waren nicht mit auf für von im am an als "
    "auch es ich du er sie wir ihr mein meine dein sein wie was wer wo wann warum welche welcher dass wenn aber oder bei nach "
    "über kann können soll muss habe hat haben wird werden noch nur so aus um diesem diese dieser dieses bitte mich mir uns hallo nenne schreibe erkläre berechne viel gibt man dasselbe was",
    "fr": "le la les un une des de du et en est sont était que qui quoi quel quelle quand où comment pourquoi ne pas plus pour "
    "par avec dans sur au aux ce cet cette ces il elle nous vous ils elles je tu mon ma mes ton ta son sa ses leur mais ou "
    "donc si se on peut peux faut faire être avoir ai as avons avez ont très aussi sans bonjour merci moi c'est j'ai qu'est quelles quels dit dire explique écris rédigez traduis",
    "pt": "o os um uma uns do da dos das e em no na nos nas que é são está não com para por como se seu sua mais mas este esta "
    "isto isso você eu ele ela nós meu minha foi quando onde quem porque também muito olá obrigado fazer posso pode ao à pelo "
    "pela até tem ter",
    "it": "il lo gli i un una uno di del della dei delle e è sono era che chi cosa come quando dove perché non con per su da dal "
    "nel nella al alla se si mi ti ci vi mio mia tuo suo questo questa questi più ma anche molto ciao grazie fare posso può "
    "degli alle sul",
    "nl": "de het een en van in is zijn was niet met op voor dat die te ik je jij hij zij wij mijn jouw wat wie waar wanneer "
    "waarom hoe deze dit er aan ook maar als om naar kan kunnen moet heb heeft hebben wordt worden nog door bij uit hallo dank "
    "welke mij ons",
    "pl": "i w z na do się nie jest są to że co jak kiedy gdzie dlaczego kto czy o po od dla przez ale lub mój moja mi ty on ona "
    "my wy oni ten ta te tego tej być ma mam może proszę dziękuję już tylko bardzo także który która jego jej za przy",
    "sv": "och att det som en ett är var inte med på för av i till den de han hon vi jag du min din vad vem hur när varför om kan "
    "ska har hade men eller från mycket också detta denna dessa hej tack mig dig",
    "da": "og at det som en et er var ikke med på for af i til den de han hun vi jeg du min din hvad hvem hvordan hvornår hvorfor "
    "om kan skal har havde men eller fra meget også dette denne disse hej tak mig dig",
    "tr": "ve bir bu da de için ile ne nasıl neden kim nerede mi mı mu mü var yok çok daha gibi ben sen o biz siz onlar benim "
    "senin olan olarak ama veya değil her kadar sonra nedir lütfen merhaba teşekkürler bana şu",
    "vi": "là và của có không được cho với trong một những các này đó tôi bạn anh chị em ông bà làm như thế nào gì ai đâu khi "
    "nếu nhưng để từ ra vào rất cũng xin chào cảm ơn",
    "id": "yang dan di ke dari untuk dengan ini itu adalah tidak saya kamu anda dia kami kita mereka apa siapa mana kapan "
    "mengapa bagaimana atau tetapi juga bisa dapat akan sudah belum ada pada sebagai oleh tolong terima kasih halo",
    "ro": "și de la în cu pe un o este sunt nu ce cine cum când unde care pentru din sau dar mai foarte eu tu el ea noi voi ei "
    "meu mea acest această fi am ai are bună mulțumesc",
    "cs": "a v na je se že to s z do o i jak kdy kde proč kdo co ale nebo jsem jsi jsou být má mám pro po při také který která "
    "můj moje tento tato prosím děkuji velmi už jen od za",
    "fi": "ja on ei se että hän minä sinä me te he oli mutta tai kun jos niin kuin mitä miten missä milloin miksi kuka tämä "
    "tuo nämä voi olla ovat myös vain hyvin kiitos hei minun sinun",
    "hu": "a az és egy nem is hogy van volt de vagy ha mi ki hol mikor miért hogyan ez azt ezt én te ő mi ti ők csak már még "
    "nagyon lesz kell lehet mint el meg köszönöm szia",
    "sw": "na ya wa ni kwa la za katika hii hiyo mimi wewe yeye sisi nini nani wapi lini kwa nini jinsi gani lakini au pia "
    "sana habari asante je kama ili huu",
    "tl": "ang ng sa na mga ay at ko mo siya kami tayo sila ito iyon ano sino saan kailan bakit paano hindi oo para kung pero "
    "din rin lang po salamat",
    "zu": "ukuthi futhi kanye ngiyabonga sawubona kanjani yini ubani kuphi nini ngoba uma kodwa noma lokhu lokho mina wena yena "
    "thina bona ngicela ungangisiza ngakha ngenza indlela",
}
_BY_WORD: dict[str, tuple[str, ...]] = {}
for _language, _list in _WORDS.items():
    for _word in set(_list.split()):
        _BY_WORD[_word] = (*_BY_WORD.get(_word, ()), _language)
_LETTERS = {
    "es": "ñ¿¡áéíóú",
    "de": "ßäöü",
    "fr": "çœêèàâîôûëï",
    "pt": "ãõ",
    "pl": "łąęśźżćń",
    "tr": "ğışİ",
    "vi": "ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹđơư",
    "ro": "șțăâî",
    "cs": "řěůčšž",
    "sv": "å",
    "da": "øæ",
    "hu": "őű",
    "fi": "ä",
}
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NOT_PROSE = re.compile(r"https?://\S+|`[^`]*`|\$[^$]*\$|\\[a-zA-Z]+|<[^>]{0,80}>|\S*[@/\\_{}=]\S*")


@lru_cache(maxsize=2048)
def _detect(sample: str) -> str:
    prose = _NOT_PROSE.sub(" ", sample)
    letters = sum(map(str.isalpha, prose))
    if letters < 2:
        return "und"
    if (by_script := _by_script(prose, letters)) is not None:
        return by_script
    return _by_words([token.lower().replace("’", "'") for token in _TOKEN.findall(prose)], prose)


def detect(text: str) -> str:
    """ISO 639 code of the language, or "und" when the text is too short or too mixed to tell."""
    if len(text) > _SAMPLE:
        third, middle = _SAMPLE // 3, len(text) // 2
        text = f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"
    return _detect(text)


def _by_script(text: str, letters: int) -> str | None:
    for language, pattern in _SCRIPTS:
        share = len(pattern.findall(text)) / letters
        if language == "ja" and share > 0.05 and share + _share_of_han(text, letters) > 0.3:
            return "ja"
        # A character of Chinese or Korean says as much as a word of three or four letters.
        if share > (0.2 if language in ("zh", "ko") else 0.4):
            if language == "ar":
                return "ur" if _URDU.search(text) else "fa" if _PERSIAN.search(text) else "ar"
            if language == "ru" and _UKRAINIAN.search(text):
                return "uk"
            return language
    return None


def _share_of_han(text: str, letters: int) -> float:
    return len(_SCRIPTS[2][1].findall(text)) / letters


def _by_words(tokens: list[str], prose: str) -> str:
    if not tokens:
        return "und"
    votes: dict[str, float] = defaultdict(float)
    for token in tokens:
        owners = _BY_WORD.get(token, ())
        for owner in owners:
            votes[owner] += 0.5 + 0.5 / len(owners)
    for language, letters in _LETTERS.items():
        if language in votes and any(letter in prose for letter in letters):
            votes[language] += 1
    if not votes:
        return "und"
    (best, count), *others = sorted(votes.items(), key=lambda item: -item[1])
    second = others[0][1] if others else 0
    share = count / len(tokens)
    # English is what short, technical and mixed text is assumed to be; another language has to show itself.
    if best == "en":
        return "en" if share >= 0.1 else "und"
    english = votes.get("en", 0.0)
    if count >= 1.4 and share >= 0.15 and count >= 1.08 * second and count >= 2 * english:
        return best
    return "en" if english >= 2 and english >= 0.7 * count else "und"
