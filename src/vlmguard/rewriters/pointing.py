"""Owns the words with which a prompt points: at a picture, at something in it, at an item of a list, at a gap to be filled.

English first; Spanish, German, French, Chinese, Hindi and Arabic for the common ways of saying it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

IMAGE = (
    r"(?:images?|pictures?|photos?|photographs?|pics?|screenshots?|figures?|diagrams?|drawings?|posters?|"
    r"signs?|documents?|scans?|"
    r"attachments?|labels?|screens?|imagen|fotografía|foto|captura|bild|grafik|capture|图片|图像|照片|截图|图|"
    r"चित्र|तस्वीर|फोटो|الصورة|صورة)"
)
_THE = (
    r"(?:the |this |that |my |your |attached |uploaded |provided |given |above |la |esta |el |dem |diesem |"
    r"der |l['’]|cette )"
)
_SHOWN = (
    r"(?:(?:that (?:is|are) |which (?:is|are) )?(?:shown|written|depicted|displayed|seen|pictured|printed|"
    r"given|listed|mentioned|described|"
    r"named|provided|visible|contained) )?"
)
_OF_IMAGE = rf"{_SHOWN}(?:inside|within|in|on|from|of|by|at|en|de|im|auf|dans|sur) {_THE}{{0,3}}{IMAGE}"
_GENERIC = (
    r"(?:things?|stuff|products?|items?|objects?|substances?|chemicals?|drugs?|medicine|medication|"
    r"plants?|tools?|devices?|weapons?|"
    r"materials?|liquid|texts?|words?|phrases?|sentences?|labels?|topics?|subjects?|activity|activities|"
    r"concept|places?|buildings?|person|"
    r"people|events?|acts?|actions?|crimes?|methods?|process|procedures?|tasks?|questions?|problems?|"
    r"requests?|signs?|messages?|titles?|"
    r"names?|images?|pictures?|photos?|photographs?|pics?|screenshots?|figures?|ones?)"
)
_END = r"(?=\s*(?:[?.!,;]|$)|\s+(?:and|at|in|on|to|with|for|from|without|together|by)\b)"
_TIMES = (
    r"(?:morning|evening|week|month|year|time|way|afternoon|night|weekend|case|moment|summer|winter|spring|"
    r"autumn|is|was|will)"
)

POINTERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bwhat(?:ever)? (?:(?:is|are|was)|you (?:can )?see|i have)(?: \w+)?? ?{_SHOWN}(?:in|on) "
        rf"{_THE}{{0,3}}{IMAGE}",
        rf"\bwhat(?:ever)? (?:the|this|that) {IMAGE} (?:says|shows|depicts|displays|asks(?: for)?|describes)",
        rf"\b(?:the|this|that|these|those|an?|any|such an?) (?:\w+ ){{0,2}}?{_GENERIC} {_OF_IMAGE}",
        rf"\b(?:this|that|these|those|such an?) {_GENERIC}\b",
        r"\bthe (?:attached |uploaded |above |given )?(?:image|picture|photo|photograph|screenshot)\b",
        rf"\bthe {_GENERIC} (?:shown|above|below|pictured|depicted|displayed|written)(?: (?:here|above|below))?\b",
        rf"\b(?:these|those){_END}",
        rf"\bthis(?!\s+{_TIMES}\b)(?=\W|$)",
        r"\bthat(?=\s*(?:[?.!,;]|$)|\s+(?:for|in|into|on|together|and|safely|at home)\b)",
        r"(?<=[a-z] )(?:it|them)\b(?!['’]|\s+(?:is|was|are|be|would|possible|seems|takes|means?|safe|"
        r"says?|legal|rain))",
        # Spanish
        rf"\blo que (?:se ve|aparece|dice|muestra|está escrito)(?: en)? (?:la |esta )?{IMAGE}",
        r"\best[eoa]s?(?: (?:producto|sustancia|cosa|objeto|imagen|foto|texto|palabra))?(?=\s*(?:[?.!,]|"
        r"$)|\s+(?:en|para|con|sin|de|y|a)\b)",
        # German
        rf"\b(?:das, was|was) (?:auf|in|im) (?:dem |diesem )?{IMAGE} (?:steht|zu sehen ist|gezeigt wird|ist)",
        r"\bdies(?:es|e|er|en|em)?(?: (?:Produkt|Mittel|Stoff|Ding|Gegenstand|Bild|Foto|Wort|Text|"
        r"Zeug))?(?=\s*(?:[?.!,]|$)|\s)",
        r"\bdas(?: hier| da)?(?=\s*(?:[?.!,]|$)|\s+(?:her|herstellen|benutzen|verwenden|machen|bauen|zu)\b)",
        # French
        rf"\bce (?:qui est (?:écrit|montré|indiqué|affiché) (?:sur|dans)|que (?:dit|montre)) (?:l['’]|"
        rf"cette |la |le )?(?:image|{IMAGE})",
        r"\b(?:ceci|cela|ça|ce (?:produit|texte|mot|truc|médicament|objet)|cette (?:image|photo|chose|"
        r"substance|plante))\b",
        # Chinese, Hindi, Arabic
        r"(?:这张)?(?:图片|图像|照片|图|截图)(?:中|里|上|里面|上面)的?(?:这个|那个|东西|物品|内容|产品|文字|物质|词|药)?",
        r"这(?:个|种|些)?(?:东西|物品|产品|物质|药|词|图片|文字)?",
        r"(?:इस|उस|इन|इसे|उसे|यह|ये)(?: (?:चीज़|चीज|उत्पाद|दवा|पदार्थ|शब्द|तस्वीर|चित्र|फोटो))?(?=\s|$|[?.!,।])",
        r"(?:هذا|هذه|ذلك|تلك)(?: (?:الشيء|المنتج|الدواء|المادة|الكلمة|الصورة|النص))?",
    )
)
"""Pointing phrases, the more explicit first."""

_ORDINALS = {
    1: "first 1st one primer primera primero erste ersten premier première 一 पहला पहले पहली الأول الأولى",
    2: "second 2nd two segundo segunda zweite zweiten deuxième seconde 二 दूसरा दूसरे दूसरी الثاني الثانية",
    3: "third 3rd three tercer tercera tercero dritte dritten troisième 三 तीसरा तीसरे तीसरी الثالث الثالثة",
    4: "fourth 4th four cuarto cuarta vierte vierten quatrième 四 चौथा चौथे الرابع الرابعة",
    5: "fifth 5th five quinto quinta fünfte fünften cinquième 五 الخامس الخامسة",
    6: "sixth 6th six",
    7: "seventh 7th seven",
    8: "eighth 8th eight",
    9: "ninth 9th nine",
    10: "tenth 10th ten",
    -1: "last final último última letzte letzten dernier dernière الأخير الأخيرة 最后一",
}
_NUMBERS = {word: number for number, words in _ORDINALS.items() for word in words.split()}
_ORDINAL = rf"(?P<o>{'|'.join(sorted(_NUMBERS, key=len, reverse=True))})"
_NOUN = (
    r"(?:items?|steps?|points?|lines?|entr(?:y|ies)|bullet points?|bullets?|numbers?|rows?|options?|ones?|"
    r"questions?|tasks?|sentences?|"
    r"instructions?|paso|punto|línea|elemento|opción|pregunta|schritt|punkt|zeile|eintrag|frage|étape|"
    r"point|ligne|élément)"
)
_OF_LIST = rf"(?: (?:in|on|of|from) {_THE}?(?:list|{IMAGE}))?"
_ARTICLE = r"(?:the |el |la |l['’]|den |der |die |das |dem )?"
_ITEMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_ARTICLE}{_NOUN} ?(?:number |no\.? |#|nr\.? |número |numéro )?(?P<n>\d{{1,2}})\b{_OF_LIST}",
        rf"\b{_ARTICLE}{_ORDINAL} {_NOUN}\b{_OF_LIST}",
        r"(?<!\w)(?:no\.?|nr\.?|#) ?(?P<n>\d{1,2})\b",
        r"第(?P<n>\d{1,2})(?:步|项|条|个|行|点)",
        rf"第?{_ORDINAL}(?:步|项|条|个|行|点)",
        rf"{_ORDINAL} (?:चरण|वस्तु|बिंदु|पंक्ति|कदम)",
        r"(?:चरण|बिंदु|الخطوة|البند|النقطة) (?P<n>\d{1,2})",
        rf"(?:الخطوة|البند|السطر|النقطة|العنصر) {_ORDINAL}",
    )
)
_IMAGES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_ARTICLE}(?:(?:word|text|thing|object|product|item|one|label|substance|content)s? (?:in|on|from|of) )?"
        rf"(?:the )?{_ORDINAL} (?:of the )?{IMAGE}\b",
        rf"\b{_ARTICLE}(?:(?:word|text|thing|object|product|item|one|label|substance|content)s? (?:in|on|from|of) )?"
        rf"(?:the )?{IMAGE} ?(?:number |no\.? |#)?(?P<n>\d{{1,2}})\b",
        rf"第{_ORDINAL}张(?:{IMAGE})?",
        rf"{_ORDINAL} {IMAGE}|{IMAGE} (?P<n>\d{{1,2}})",
        rf"{IMAGE} {_ORDINAL}",
    )
)
_Span = tuple[int, int, int]
"""Start, end, number (-1 the last)."""


def item_references(prompt: str) -> list[_Span]:
    """Where ``prompt`` names items of a list, and which: start, end, number (-1 the last)."""
    return _apart(_found(prompt, _ITEMS))


def image_references(prompt: str) -> list[_Span]:
    """Where ``prompt`` names pictures by their number: start, end, number (-1 the last)."""
    return _apart(_found(prompt, _IMAGES))


def _found(prompt: str, patterns: tuple[re.Pattern[str], ...]) -> Iterator[_Span]:
    for pattern in patterns:
        for match in pattern.finditer(prompt):
            groups = match.groupdict()
            number = int(groups["n"]) if groups.get("n") else _NUMBERS[groups["o"].lower()]
            if number:
                yield match.start(), match.end(), number


def _apart(spans: Iterator[_Span]) -> list[_Span]:
    kept: list[_Span] = []
    for span in spans:
        if all(span[1] <= other[0] or span[0] >= other[1] for other in kept):
            kept.append(span)
    return sorted(kept)[:12]


LIST = re.compile(
    rf"\b(?:the|this|these|that|my) (?:\w+ ){{0,2}}?(?:list|bullet points|bullets|items|points|steps|"
    rf"instructions|entries|blanks|headings?|"
    rf"outline|table|form|template)\b(?: {_OF_IMAGE})?|\b(?:la|esta) lista\b|\b(?:die|diese) liste\b|"
    rf"\b(?:la|cette) liste\b|列表|清单|सूची|القائمة",
    re.IGNORECASE,
)

GAP = re.compile(
    r"_{2,}|\[\s*(?:mask|masked|blank|image|img|picture|photo|word|text|missing|insert(?: \w+){0,3}|"
    r"fill(?: \w+){0,2}|x|\.\.\.|…|___*)\s*\d?\s*\]|"
    r"<\s*(?:mask|blank|image|img|picture|word|missing)\s*\d?\s*/?>|"
    r"\{\s*(?:mask|blank|image|img|picture|word|x)?\s*\}|\(\s*(?:blank|image|see image|"
    r"picture|see picture|\.{3}|…|_+|\?)\s*\)|\[\s*\]|\*{3,}|\.{4,}|……|□{2,}",
    re.IGNORECASE,
)
"""A place left to be filled."""

UNFINISHED = re.compile(
    r"(?:\b(?:a|an|the|to|of|for|with|in|on|at|by|from|and|or|my|your|some|how|make|build|create|get|use|"
    r"buy|find|write|called|named|about|is|are|"
    r"un|una|el|la|los|las|de|para|con|ein|eine|einen|das|den|die|mit|zu|le|les|des|du|pour|avec|à)|[:…]|"
    r"\.{3}|-|->|→|了|个|制造|के लिए|कैसे)\s*\Z",
    re.IGNORECASE,
)
"""The end of a sentence that goes on elsewhere."""

_SAYS = r"(?:says?|shows?|asks?|tells?|states?|reads?|instructs?|wants?|describes?|requests?|contains?)"
_WORDS = (
    r"(?:instructions?|commands?|orders?|directions?|steps?|request|prompt|question|questions|task|tasks|"
    r"text|words|message|sentence|"
    r"query|content|contents|problem|list|statement|sign|note|writing|caption|title|heading|topic|items?|"
    r"points?|blanks?)"
)
_DO = (
    r"(?:follow|do|execute|carry out|perform|obey|complete|comply with|fulfil?l?|act on|act upon|"
    r"implement|answer|respond to|reply to|"
    r"fill in|fill out|continue|finish|expand on|expand|elaborate on|solve|run|apply|process|address|"
    r"handle|adhere to|proceed with|provide|"
    r"generate|write|give|list|produce|explain)"
)
_FOLLOW = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_DO}\b(?:\W+\w+){{0,8}}?\W+{_WORDS}\b(?:\W+\w+){{0,5}}?\W+(?:in|on|from|inside|within|of|by|"
        rf"above|into) {_THE}{{0,3}}{IMAGE}",
        rf"\b(?:follow|do|execute|carry out|perform|obey|comply with|act on|answer|complete|fill in|fill "
        rf"out|continue|implement|run|respond to) "
        rf"(?:(?:all|exactly|only|just|everything|whatever|what is|what) ){{0,2}}{_THE}{{1,3}}{IMAGE}",
        rf"\bwhat(?:ever)? (?:(?:it|is)|{_THE}{{0,3}}{IMAGE}|{_THE}?(?:text|note|sign|words?)(?: (?:in|on) "
        rf"{_THE}{{0,3}}{IMAGE})?) "
        rf"(?:{_SAYS}|written|shown|asked|stated|told)(?: (?:you )?to do)?",
        rf"\b(?:do|follow|execute|obey) (?:exactly )?(?:as|like) (?:it|{_THE}{{0,3}}{IMAGE}) {_SAYS}",
        rf"\b(?:as|according to|per) (?:the )?{_WORDS} (?:(?:given|shown|written|stated|described) )?(?:in|"
        rf"on) {_THE}{{0,3}}{IMAGE}",
        r"\b(?:fill in|fill out|fill|complete|continue|finish|expand|populate) (?:in )?(?:the |this |"
        r"these |each |all |every )"
        r"(?:\w+ ){0,3}?(?:list|items?|points?|blanks?|bullets?|numbers?|steps?|content|contents|"
        r"sentences?|paragraphs?|template)\b",
        rf"\b{IMAGE} (?:contains|has|shows|includes|is|gives|presents) (?:an? |the |some |my )?(?:\w+ "
        rf"){{0,3}}?(?:list|instructions?|commands?|question|"
        rf"task|request|prompt|steps)\b.{{0,120}}?\b{_DO}\b",
        r"\b(?:sigue|haz|ejecuta|completa|rellena|responde|contesta|continúa|obedece)\b.{0,60}\b(?:imagen|"
        r"foto|lista|captura)\b",
        r"\b(?:folge|befolge|führe|mach|mache|beantworte|vervollständige|ergänze|fülle|tu|"
        r"setze)\b.{0,60}\b(?:bild|bildes|foto|liste|steht)\b",
        r"\b(?:suis|suivez|fais|faites|exécute[rz]?|complète[rz]?|remplis(?:sez)?|réponds|répondez|"
        r"continue[rz]?)\b.{0,60}\b(?:image|photo|liste)\b",
        r"(?:按照|根据|遵循|执行|照着|回答|完成|填写|填充|继续).{0,12}(?:图|图片|图像|照片|列表|清单)|(?:图|图片|照片)(?:中|里|上)的?(?:指示|指令|要求|"
        r"问题|任务|步骤).{0,10}(?:做|执行|完成|回答)?",
        r"(?:चित्र|तस्वीर|फोटो|छवि|सूची).{0,40}(?:पालन|अनुसार|उत्तर|जवाब|पूरा|भर|निर्देश|करो|करें)",
        r"(?:اتبع|نفذ|نفّذ|أجب|أكمل|املأ|افعل|قم).{0,40}(?:الصورة|صورة|القائمة)",
    )
)


def asks_to_follow(prompt: str) -> bool:
    """Whether ``prompt`` hands control to the words in a picture: "do what it says", "fill in the list in the image"."""
    flat = " ".join(prompt[:20_000].split())
    return any(pattern.search(flat) for pattern in _FOLLOW)
