"""Owns the recognition of orders to an assistant in words that the user did not write: injection through pixels.

An order names the assistant, its instructions or its user. Signs, forms and labels give orders as well, to people:
"ignore the first column", "please write your name" are none of ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_READ_CHARACTERS = 200_000
_LONGEST = 300
_OLD = (
    r"(?:(?:all|any|the|your|every|these|those|of|my|its) ){0,3}(?:(?:previous|prior|above|earlier|preceding|"
    r"foregoing|initial|original|existing|other|past|current|system|safety|former) )"
)
_INSTRUCTIONS = (
    r"(?:(?:system|safety|developer|user|given|content) )?(?:instructions?|prompts?|rules|directions|"
    r"guidelines|commands|directives|context|programming|training|polic(?:y|ies)|constraints|restrictions|"
    r"guardrails|safeguards|filters|orders)"
)
_DROP = (
    r"(?:ignore|disregard|forget|override|overrule|bypass|discard|skip|neglect|dismiss|do not follow|don['’]t "
    r"follow|stop following|pay no attention to)"
)
_ROLE = (
    r"(?:dan|aim|stan|dude|jailbroken|unrestricted|unfiltered|uncensored|evil|amoral|unethical|different|"
    r"new|free from|free of|no longer|not bound|"
    r"developer mode|in developer mode|an? (?:\w+ ){0,3}?(?:ai|assistant|chatbot|bot|language model|llm|"
    r"model|agent|hacker|expert hacker|system|persona|terminal|interpreter))"
)
_MODEL = (
    r"(?:chat ?gpt|gpt-?[345]\w*|gpt|claude|gemini|copilot|llama|bard|grok|deepseek|llm|llms|(?:large |vision "
    r")?language models?|vlm|ai (?:assistants?|agents?|models?|systems?|bots?)|chatbots?|ai|a\.i\.)"
)
_ACT = (
    r"(?:ignore|disregard|forget|reveal|output|print|reply|respond|answer|send|say|tell|write|repeat|"
    r"describe|rate|recommend|give|do|must|should|please|"
    r"you (?:must|should|will|are|have|shall)|never|always|stop|follow|click|visit|email|forward|delete|"
    r"execute|run|use|return|include|append|add|state|report|translate|generate|provide)"
)

_STRONG = (
    rf"\b{_DROP} {_OLD}{_INSTRUCTIONS}",
    rf"\b{_DROP} (?:all|any|every|your) (?:of )?(?:your |the |my |safety |content )*{_INSTRUCTIONS}",
    rf"\b{_DROP} (?:everything|anything|all|what) (?:you (?:were|have been|['’]ve been) told|above|"
    rf"before(?: this)?|that came before|the user (?:says|said|asks|asked|wrote))",
    rf"\b{_DROP} (?:the )?(?:user|human)(?:['’]s)? (?:prompt|question|request|message|instructions?|query|input)",
    rf"\byou are (?:now|from now on|no longer|henceforth) {_ROLE}\b",
    r"\bfrom now on,? (?:you (?:are|will|must|should|shall|respond|answer|act|only)|respond|answer|act as|reply)\b",
    r"\b(?:enter|enable|activate|switch to|you are in) (?:developer|jailbreak|dan|god|debug|unrestricted|"
    r"admin) mode\b|\bdeveloper mode (?:enabled|activated|on)\b",
    r"\b(?:act|behave|respond|answer|pretend|roleplay|role-play) (?:as|like|to be|as if you (?:are|were|"
    r"have)) (?:dan\b|an? (?:unrestricted|unfiltered|uncensored|evil|jailbroken|amoral)|(?:you )?(?:have "
    r")?no (?:restrictions|rules|limits|filters|guidelines))",
    r"\b(?:do not|don['’]t|never|without) (?:tell|telling|inform|informing|mention|mentioning|reveal|"
    r"revealing|warn|warning|alert|alerting|notify|notifying|show|disclose)(?: (?:this|it|that|anything|"
    r"them))?(?: (?:to|about))? (?:the )?(?:user|human|reader of the chat|person asking)\b",
    r"\b(?:do not|don['’]t) (?:mention|reveal|disclose) (?:this|these|that) (?:instructions?|prompt|message|text)\b",
    r"\b(?:reveal|print|output|repeat|show|leak|send|display|give) (?:me )?(?:your|the|its) (?:full |"
    r"entire |hidden |secret |initial |original )*(?:system prompt|system message|initial prompt|hidden "
    r"prompt|initial instructions|system instructions)",
    r"\b(?:your|the) (?:new|real|true|actual|only|updated|secret) (?:task|instructions?|goal|objective|"
    r"purpose|mission|role|directive) (?:is|are|will be)\b",
    r"\b(?:new|updated|important|hidden|secret|additional|system|admin|override) instructions? (?:for|to) (?:the )?"
    + _MODEL
    + r"\b",
    r"\bas an? (?:ai|ai assistant|ai model|language model|large language model|assistant|llm)(?: "
    r"(?:reading|processing|viewing|seeing|analy[sz]ing|looking at) (?:this|the)(?: \w+)?)?,? (?:you "
    r"(?:must|should|will|shall|are (?:required|instructed|ordered|to))|ignore|disregard|do|please|always|"
    r"never)\b",
    rf"\b(?:if|when|whenever) (?:you are|you['’]re|an?|any|the) (?:an? )?(?:{_MODEL}|assistant|agent)(?: "
    rf"(?:is |are )?(?:reading|processing|viewing|seeing|sees|reads|analy[sz]ing|summari[sz]ing|asked)\b|,)",
    rf"\b(?:attention|dear|note to|notice to|message (?:for|to)|hey|hello|to|instructions? (?:for|to)|"
    rf"warning to|reminder to) (?:all |any |the |every )?(?:{_MODEL}|assistant|ai agent)s?\b(?: (?:reading|"
    rf"processing|viewing|that|who)\b(?:\W+\w+){{0,8}}?)?[\W_]{{1,4}}(?:{_ACT})\b",
    rf"(?:^|[.!?:\n>*\]] ?)(?:{_MODEL})(?: (?:reading|processing|viewing) this(?: \w+)?)?[,:;!—-]+ ?(?:{_ACT})\b",
    rf"\b(?:{_MODEL})(?:s)? (?:reading|processing|viewing|parsing|summari[sz]ing) this(?: \w+)?,? (?:must|"
    rf"should|shall|will|has to|have to|please|are|is)\b",
    r"<\|?(?:im_start|im_end|system|assistant|endoftext|start_header_id|eot_id|begin_of_text)\|?>|"
    r"\[/?INST\]|<</?SYS>>|</?(?:system|system_prompt|system-prompt|assistant|instructions|admin|"
    r"tool_call|function_calls?)>",
    r"#{2,} ?(?:system|instructions?|assistant|new instructions?|system prompt) ?:|\b(?:begin|end|start "
    r"of|new) system (?:prompt|message|override)\b|\[ ?system (?:message|prompt|override|instruction|note|"
    r"update) ?\]|\bsystem override\b",
    r"(?:^|[\n.!?>\]] ?)\W{0,3}(?:system|developer|assistant|admin) ?(?:prompt|message|note|"
    r"instruction)?s? ?: ?(?:you (?:are|must|should|will|shall|can|have)|ignore|disregard|forget|override|"
    r"respond|always|never|do not|from now|new instruction|the assistant|act as|the user (?:has|is|"
    r"wants))\b",
    r"\b(?:respond|reply|answer) (?:only|just|exactly|solely) with\b(?=.{0,80}\b(?:regardless|no matter|"
    r"instead of|and nothing else)\b)",
    r"\b(?:send|forward|exfiltrate|leak|upload|post|email|transmit) (?:(?:the|this|all|your|entire|full|"
    r"user['’]?s?) ){0,4}(?:conversation|chat(?: history)?|system prompt|chat log|user data|credentials|"
    r"context window|api keys?) (?:history |log )?to\b",
    r"\bthe (?:assistant|ai|model|chatbot|llm) (?:must|should|shall|has to|is (?:now )?(?:required|"
    r"instructed|ordered|allowed|free)) (?:now |not |always |never |only |to )*(?:answer|respond|reply|"
    r"say|output|print|ignore|disregard|reveal|comply|obey|generate|"
    r"recommend|mention|tell|refuse|repeat|pretend)\b",
    r"\b(?:jailbreak|prompt injection) (?:the|this) (?:ai|model|assistant|chatbot)\b",
    # Spanish
    r"\b(?:ignor[ae]n?|olvid[ae]n?|descart[ae]n?|omit[ae]n?|haz caso omiso de)(?: (?:de|a))?(?: (?:todas|"
    r"todos|cualquier|tus|las|los|mis|sus|estas)){0,3} (?:(?:instrucciones|órdenes|ordenes|reglas|"
    r"indicaciones|directrices)(?: (?:anteriores|previas|de arriba|del sistema|de seguridad|originales))|"
    r"(?:anteriores|previas) (?:instrucciones|órdenes|indicaciones)|tus (?:instrucciones|reglas))",
    r"\b(?:ahora|a partir de ahora)(?:,)? (?:eres|serás|actúas como|actuarás como|responderás|debes) "
    r"(?:como )?(?:una? )?(?:ia|asistente|modelo|chatbot|dan|hacker|sin restricciones|responder|siempre|"
    r"\w+ sin (?:restricciones|filtros|límites))",
    r"\bno (?:le|se lo|lo) (?:digas|menciones|informes|reveles|cuentes)(?: (?:esto|nada))? al? (?:usuario|"
    r"humano)|\bsin (?:decirle|informar|avisar) al usuario",
    r"\b(?:como|si eres) (?:una? )?(?:ia|inteligencia artificial|asistente(?: de ia)?|modelo de "
    r"lenguaje),? (?:debes|tienes que|ignora|responde|olvida|revela)",
    # German
    r"\b(?:ignorier(?:e|en|t)|vergiss|vergessen|missachte|übergehe|überschreibe)(?: sie)?(?: (?:alle|"
    r"sämtliche|deine|die|ihre|jegliche|meine|bitte)){0,3} (?:(?:vorherigen|bisherigen|obigen|vorigen|"
    r"früheren|vorangegangenen|ursprünglichen|anderen) )?(?:anweisungen|instruktionen|befehle|regeln|"
    r"vorgaben|richtlinien|systemanweisungen|prompts)",
    r"\bdu bist (?:jetzt|nun|ab jetzt|ab sofort|von nun an) (?:eine? )?(?:\w+ ){0,2}?(?:ki|assistent|"
    r"chatbot|modell|dan|hacker|sprachmodell|frei|uneingeschränkt\w*|ungefiltert\w*)",
    r"\b(?:sag|sage|verrate|erzähle|teile|zeige)(?: (?:es|das|dies))?(?: dem)? (?:nutzer|benutzer|"
    r"anwender|user)(?: (?:das|dies|davon|hiervon|es))? (?:nicht|nichts)|\bohne (?:den|dem) (?:nutzer|"
    r"benutzer|anwender)",
    r"\bals (?:ki|sprachmodell|assistent|ki-assistent|ki-modell),? (?:musst|sollst|wirst|ignoriere|"
    r"antworte|darfst) ?(?:du)?",
    # French
    r"\b(?:ignore[rsz]?|oublie[rsz]?|néglige[rsz]?|ne tiens pas compte(?: de)?|ne tenez pas compte(?: "
    r"de)?|contourne[rsz]?)(?: (?:toutes|tous|les|tes|vos|des|ces|mes)){0,3} (?:instructions?|consignes|"
    r"ordres|règles|directives|invites)(?: (?:précédentes?|antérieures?|ci-dessus|initiales|du système|"
    r"système|de sécurité))",
    r"\b(?:tu es|vous êtes) (?:maintenant|désormais|dorénavant) (?:une? )?(?:\w+ ){0,2}?(?:ia|assistant|"
    r"chatbot|modèle|dan|hacker|pirate|libre|sans (?:restrictions?|filtres?|limites?))",
    r"\bn(?:e |['’])(?:le )?(?:dis|dites|mentionne[zs]?|révèle[zs]?|informe[zs]?|préviens|avertis)(?: "
    r"(?:rien|pas|cela|ceci))* (?:à )?l['’]utilisateur|\bsans (?:le dire à|prévenir|informer|avertir) "
    r"l['’]utilisateur",
    r"\ben tant qu['’](?:ia|assistant|intelligence artificielle)|\ben tant que modèle de langage,? (?:tu "
    r"dois|vous devez|ignore)",
    # Chinese
    r"(?:忽略|无视|忘记|忘掉|不要理会|跳过|绕过)(?:掉)?(?:你)?(?:之前|以上|前面|所有|先前|上面|此前|全部|一切|上述|原来|系统)?(?:的)?(?:所有|全部|一切|"
    r"任何)?(?:的)?(?:系统|安全)?(?:指令|指示|提示词?|命令|设定|限制|规则|要求|说明)",
    r"(?:你现在是|从现在起,?你|从现在开始,?你|现在起你)(?:是|要|将|必须|扮演|会)?.{0,12}?(?:助手|人工智能|AI|模型|机器人|黑客|没有限制|不受限制|DAN|扮演)|"
    r"(?:不要|别|切勿|请勿)(?:告诉|告知|通知|提醒|透露给|提示)用户|(?:作为|如果你是)(?:一个)?(?:AI|人工智能|语言模型|助手).{0,4}(?:你必须|你应该|请忽略|必须|"
    r"应当)",
    # Hindi
    r"(?:पिछले|पिछली|उपरोक्त|पहले के|पूर्व|सभी|ऊपर के|अपने)(?: सभी| दिए गए| के)? (?:सभी )?(?:निर्देश|"
    r"निर्देशों|आदेश|आदेशों|नियम|नियमों)(?: को| की)? (?:अनदेखा|नज़रअंदाज़|नजरअंदाज|भूल|उपेक्षा|अनदेखी|"
    r"छोड़)",
    r"(?:उपयोगकर्ता|यूज़र|यूजर) को (?:यह |इसके बारे में |कुछ )?(?:मत|न|नहीं) बता|(?:अब|अब से) (?:आप|तुम) "
    r"(?:एक )?.{0,20}?(?:एआई|AI|सहायक|मॉडल|हैकर|चैटबॉट)|(?:एआई|AI) (?:के रूप में|होने के नाते),? (?:आपको|"
    r"तुम्हें|आप)",
    # Arabic
    r"(?:تجاهل|تجاهلي|تجاهلوا|انس|انسَ|إنس|تخط|تخطى|لا تتبع)(?: عن)?(?: (?:جميع|كل|كافة|أي))? "
    r"?(?:التعليمات|الأوامر|التوجيهات|الإرشادات|القواعد|تعليماتك|القيود)",
    r"(?:لا تخبر|لا تُخبر|لا تقل|لا تذكر|دون إخبار|بدون إخبار|لا تبلغ)(?: هذا| ذلك)? ?(?:ل)?(?:المستخدم|"
    r"للمستخدم)|(?:أنت الآن|من الآن فصاعدا|من الآن فصاعداً)،? (?:أنت |ستكون )?(?:مساعد|نموذج|ذكاء|روبوت|"
    r"هاكر|بلا قيود|بدون قيود)|(?:بصفتك|كونك|باعتبارك) (?:نموذج|مساعد|ذكاء)",
)
_PATTERNS = tuple(re.compile(pattern.replace(" ", r"[\s_]{0,3}"), re.IGNORECASE | re.MULTILINE) for pattern in _STRONG)
"""A space may be lost or doubled, since the text was read from a picture."""
_HINT = re.compile(
    r"ignor|disreg|forget|overr|bypass|discard|skip|neglect|dismiss|follow|attention|you ?are|from ?now|"
    r"mode|act|behav|respond|answer|pretend|role|"
    r"tell|inform|mention|reveal|warn|alert|notif|show|disclos|print|output|repeat|leak|your|instruct|as "
    r"?an?|if|when|system|assistant|ai\b|gpt|llm|"
    r"claude|gemini|model|bot|<|\[|#|send|forward|exfil|upload|post|email|transmit|jailbreak|injection",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？।؟]+(?:\s|$)|\n\s*\n|[。！？।؟]")


def orders_to_assistant(text: str) -> str | None:
    """The sentence of ``text`` that gives orders to an assistant reading it; ``None`` when there is none.

    Lines are read as running on, since a picture breaks them anywhere.
    """
    text = text[:_READ_CHARACTERS]
    if not text.strip():
        return None
    if text.isascii() and not _HINT.search(text):
        return None
    matches = [match for pattern in _PATTERNS if (match := pattern.search(text))]
    honest = [match for match in matches if not _is_honest(text, match)]
    if not honest:
        return None
    first = min(honest, key=lambda match: match.start())
    return _sentence_around(text, first.start(), first.end())


_QUOTED_ANSWER = re.compile(r"as an? (?:ai|language model|ai language model),? i\b", re.IGNORECASE)


def _is_honest(text: str, match: re.Match[str]) -> bool:
    """A model's own answer in a screenshot, or a policy about models that a person is to read."""
    return _QUOTED_ANSWER.match(text[match.start() : match.start() + 60]) is not None


def _sentence_around(text: str, start: int, end: int) -> str:
    left = max(0, start - _LONGEST // 2)
    begin = max((left + cut.end() for cut in _SENTENCE_END.finditer(text[left:start])), default=left)
    cut = _SENTENCE_END.search(text, end - 1, end + _LONGEST // 2)
    stop = cut.end() if cut else min(len(text), end + _LONGEST // 2)
    return " ".join(text[begin:stop].split())


# ---------------------------------------------------------------------------------------------------------------------
# Definitions of tools

_HIDE = (
    r"(?:tell|telling|inform|informing|warn|warning|alert|alerting|notify|notifying|mention|mentioning) "
    r"(?:(?:this|it|that|anything|them)(?: to)? )?(?:the )?(?:user|human)"
)
_SECRET = (
    r"/etc/(?:passwd|shadow)|id_rsa|id_ed25519|~?/?\.ssh\b|\.aws/|\bmcp\.json|~/\.\w|(?<!\w)\.env\b|\bprivate keys?\b"
)
_GIVE = r"(?:include|send|pass|upload|attach|append|forward|post|email|transmit|exfiltrate|leak|give|put|insert|provide|add|hand)"
_ITS_CONTENT = (
    r"(?:it|them|(?:(?:the|its|their|all|full|entire|whole|exact|raw|complete|that|this|file['’]s) ){0,3}"
    r"(?:contents?|text|data|lines?|keys?))"
)
_TO_NOBODY = (
    rf"\b{_DROP} {_OLD}{_INSTRUCTIONS}",
    rf"\b{_DROP} (?:the )?(?:user|human)(?:['’]s)? (?:prompt|question|request|message|instructions?|query|input)",
    # Concealment: of this, of what is done, of anything. "Never tell the user their password" hides nothing of the kind.
    rf"\b(?:do not|don['’]t|never|without) {_HIDE}\b(?=[^\S\n]*(?:$|[\n.!?;,:()\]\"`*—-])|"
    r" (?:about|of) (?:this|it|that|these|any|anything|what you)\b| (?:that|what|why|how|when|while|if) (?:you|this|it)\b|"
    r" (?:anything|this|you|and|or|but|because|since)\b)",
    r"\b(?:send|forward|exfiltrate|leak|upload|post|email|transmit) (?:(?:the|this|all|your|entire|full|user['’]?s?|any) ){0,4}"
    r"(?:conversation|chat (?:history|log)|system prompt|context window)\b",
    r"\b(?:send|forward|exfiltrate|leak|upload|post|email|transmit) (?:the )?(?:(?:all|your|any|every|user['’]?s?|their|these) ){1,3}"
    r"(?:credentials|api keys?|passwords?)\b(?! (?:reset|change|recovery|links?|hint|polic))",
    r"<\|?(?:im_start|im_end|endoftext|start_header_id|eot_id|begin_of_text)\|?>|\[/?INST\]|<</?SYS>>",
    r"\byou are (?:now|no longer|henceforth) (?:dan|jailbroken|unrestricted|unfiltered|uncensored|in developer mode|not bound|free "
    r"(?:from|of))\b",
)
"""A definition gives the assistant orders by its nature ("use this when …"): what counts is what no honest one says."""


def _compiled(pattern: str) -> re.Pattern[str]:
    """Any whitespace between words counts as one. Taken whole, so that a run of it is walked through once."""
    return re.compile(pattern.replace(" ", r"[\s_]++"), re.IGNORECASE)


_DEFINITION_PATTERNS = tuple(map(_compiled, _TO_NOBODY))
_WITHOUT_WORD = re.compile(r"\b(?:never|not|cannot|no)\b|n['’]t\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.!?;:,\n]")
_THEFT = _compiled(
    rf"(?P<secret>{_SECRET})|(?P<give>\b{_GIVE} {_ITS_CONTENT}\b)(?P<of> (?:of|from|in)\b)?|"
    r"(?P<read>\b(?:read|reads|reading|open|cat|load|fetch|access|get|copy)\b)|"
    r"(?P<bare>\b(?:include|send|pass|upload|attach|forward|email|transmit|exfiltrate|leak)\b)"
)
_SOFT = re.compile(r"\.env|~/|private", re.IGNORECASE)
"""Files that honest tools do send somewhere."""
_NEAR, _BESIDE, _AFTERWARDS = 80, 20, 160
"""Characters: from a verb to the file, from "send" to the file itself, from the file to the order to pass it on."""


def read_definitions(texts: Sequence[str]) -> tuple[bool, ...]:
    """Which of a request's definitions are read. Together they share one budget of 200,000 characters: many are no way to
    keep the guard busy."""
    left = _READ_CHARACTERS
    read: list[bool] = []
    for text in texts:
        read.append(len(text) <= left)
        left -= len(text) if read[-1] else 0
    return tuple(read)


def orders_in_definition(text: str) -> str | None:
    """The sentence in the words of a tool's definition that turns the assistant against its user; ``None`` when there is none."""
    text = text[:_READ_CHARACTERS]
    spans = [span for pattern in _DEFINITION_PATTERNS if (span := _first(pattern, text))]
    if theft := _theft(text):
        spans.append(theft)
    return _sentence_around(text, *min(spans)) if spans else None


def _first(pattern: re.Pattern[str], text: str) -> tuple[int, int] | None:
    """Where the first order stands. "Never do this without telling the user" is the opposite of one."""
    for match in pattern.finditer(text):
        if match[0][:7].lower() != "without" or not _WITHOUT_WORD.search(_clause_before(text, match.start())):
            return match.span()
    return None


def _clause_before(text: str, end: int) -> str:
    return _CLAUSE_END.split(text[max(0, end - _LONGEST // 2) : end])[-1]


def _theft(text: str) -> tuple[int, int] | None:
    """Where the assistant is told to read a secret of the user's and to pass it on. One walk over the words that matter."""
    read = content = bare = stolen = None
    for token in _THEFT.finditer(text):
        start, end = token.span()
        if token["secret"]:
            if content and start - content[1] <= _NEAR:
                return content[0], end
            if bare and start - bare[1] <= _BESIDE and not _SOFT.match(token[0]):
                return bare[0], end
            if read and start - read[1] <= _NEAR:
                stolen = (read[0], end)
            continue
        if token["give"] and stolen and start - stolen[1] <= _AFTERWARDS:
            return stolen[0], end
        if token["of"]:
            content = (start, end)
        elif token["read"]:
            read = (start, end)
        elif token["bare"]:
            bare = (start, end)
    return None
