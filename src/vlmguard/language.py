"""Which language a text is in: by script first, then by common words and the letters and endings of words.

Own code: of the libraries weighed one loads in two seconds and takes half of all short English prompts for something else,
and a prompt is often a handful of words. The answer is "und" (undetermined) rather than a guess, and English is what short,
technical or mixed text is taken for unless another language shows itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache

_SAMPLE = 6_000
"""Characters looked at: a third each of start, middle and end of a longer text."""
_LONGEST_WORD = 64
"""Letters of a word that is remembered."""

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("ar", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("bn", re.compile(r"[\u0980-\u09ff]")),
    ("pa", re.compile(r"[\u0a00-\u0a7f]")),
    ("gu", re.compile(r"[\u0a80-\u0aff]")),
    ("ta", re.compile(r"[\u0b80-\u0bff]")),
    ("te", re.compile(r"[\u0c00-\u0c7f]")),
    ("kn", re.compile(r"[\u0c80-\u0cff]")),
    ("ml", re.compile(r"[\u0d00-\u0d7f]")),
    ("si", re.compile(r"[\u0d80-\u0dff]")),
    ("my", re.compile(r"[\u1000-\u109f]")),
    ("km", re.compile(r"[\u1780-\u17ff]")),
    ("lo", re.compile(r"[\u0e80-\u0eff]")),
    ("ka", re.compile(r"[\u10a0-\u10ff]")),
    ("hy", re.compile(r"[\u0530-\u058f]")),
    ("am", re.compile(r"[\u1200-\u137f]")),
)
_DENSE = {"ja": 3, "zh": 3, "ko": 2}
"""How many letters of another script a character says as much as. "What does 你好 mean?" is an English question."""
_PERSIAN = re.compile(r"[\u067e\u0686\u0698\u06af\u06cc\u06a9]")
_URDU = re.compile(r"[\u0679\u0688\u0691\u06ba\u06be\u06d2]")
_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")

# Per language: the small words of every sentence, then words that people write to an assistant about a picture.
_WORDS = {
    "en": "a i so on do my we me by at the of and to in is are was were be been it that this for with as from or an not what how "
    "why who when which where does did can could should would will have has had you he she they your his her its their him "
    "them us there here about into than then if but all any some no please help tell give write make show explain find get "
    "want need between name list describe following answer question hello thanks these those let may must use using up out "
    "over under after before more most much many one two first other only very just like people person man woman child "
    "picture image photo see look read step item items fill steps each every word words color colour used table number "
    "graph chart figure title time year day long high low new old big small left right side top best good bad kind type "
    "called mean means say says said know think work own way thing things create generate translate summarize summarise "
    "solve calculate compute identify lyrics effects recipe plot code forces chords magazine disease",
    "es": "el la los las un una unos unas de del y en que es son está están por para con como se su sus lo al más pero este esta "
    "esto estos estas qué cómo cuál cuáles cuándo dónde quién me mi mis tu tus te le les nos hay ser estar puedo puede tengo "
    "quiero hacer cuando porque sin sobre también muy hola gracias hoy ayer ella ellos nosotros fue era entre hasta desde ese "
    "esa eso esos dime cuánto cuántos cuánta cuántas dame haz o si no ya soy eres somos algo nada todo todos cada así aquí "
    "imagen imágenes foto fotografía escribe explica redacta traduce resuelve calcula leer tiene tienen ayúdame cuéntame "
    "resume describe rellena lista recibo paso pasos siguiente texto palabra palabras persona personas hombre mujer perro "
    "muéstrame sigue instrucciones morir matar vivir vida casa necesito puedes podrías debo según ves dice aparece "
    "junto cerca estoy estamos estás soy triste casi ahora mañana bien mal gran bueno buena dos tres años día",
    "de": "der die das den dem des ein eine einen einem einer eines und in zu ist sind war waren nicht mit auf für von vom im am an "
    "als auch es ich du er sie wir ihr mein meine meinen dein deine sein seine wie was wer wo wann warum welche welcher "
    "welches dass wenn aber oder bei nach über kann können soll muss habe hat haben wird werden noch nur so aus um diesem "
    "diese dieser dieses diesen bitte mich mir dich dir uns hallo viel viele gibt man dasselbe kein keine mehr schon sehr "
    "zum zur ohne bin bist hier alle alles etwas nichts heißt möchte will "
    "bild bilder foto beschreibe nenne schreibe erkläre berechne fasse zusammen siehst sehen steht zeigt liste fülle "
    "kassenbon rechnung schritt schritte folgenden wort wörter mann frau hund hunde kind leben sterben töten wohnung hilf "
    "übersetze löse zeige gib sag sage mache machen brauche text frage antwort anleitung "
    "heute morgen gut ganz immer drei zwei einfach wieder jetzt jahr",
    "fr": "le la les un une des de du et en est sont était que qui quoi quel quelle quels quelles quand où comment pourquoi ne pas "
    "plus pour par avec dans sur au aux ce cet cette ces il elle nous vous ils elles je tu mon ma mes ton ta tes son sa ses "
    "leur leurs me te bien mais ou donc si se on être avoir ai as a avons avez ont très aussi sans moi toi y l' d' qu' j' c' n' s' m' t' "
    "bonjour merci salut combien peut peux faut faire fait dit dire rien tout tous toute toutes chaque ici suis es "
    "image images photo décris résume remplis écris explique rédigez traduis traduisez expliquez décrivez écrivez liste "
    "ticket caisse étape étapes suivante suivant texte mot mots homme femme chien chiens enfant vie mourir tuer vivre veux "
    "voudrais pouvez besoin aide aidez montre donne donnez résous calcule marque voit vois voiture instructions "
    "aujourd'hui demain bien mal trois deux jour ans année grand petit encore jamais",
    "pt": "o os um uma uns umas do da dos das e em no na nos nas que é são está estão não com para por como se seu sua seus suas "
    "mais mas este esta isto isso esse essa você eu ele ela nós meu minha meus minhas foi quando onde quem qual quais porque "
    "também muito olá obrigado fazer posso pode ao à pelo pela até tem ter de um já só nesta neste desta deste há quantos "
    "quantas quanto sobre sem "
    "imagem foto fotografia descreva escreva explique preencha lista resuma traduza diga mostre passo passos palavra "
    "quero viver morrer matar vida carro marca cães cachorro homem mulher favor todos preciso ajude me "
    "hoje amanhã bem dois três anos dia agora ainda nunca",
    "it": "il lo gli i un uno una di del della dei delle dello e è sono era che chi cosa come quando dove perché non con per su sei "
    "da dal dalla nel nella nei alla al alle ai sul sulla se si mi ti ci vi mio mia tuo tua suo sua questo questa questi "
    "queste quello quella più ma anche molto ciao grazie fare posso può puoi degli ho hai ha hanno quanti quante quanto "
    "quale quali la le l' dell' nell' all' dall' sull' un' c' tutti tutto ogni senza "
    "immagine foto descrivi scrivi spiega compila elenco lista riassumi traduci dimmi mostra mostrami passo parole parola "
    "voglio vivere morire uccidere vita macchina marca cani uomo donna dettagli vedi scontrino aiutami dammi leggi "
    "oggi domani bene male due tre anni giorno miei mie tuoi suoi ancora mai molto",
    "nl": "de het een en van in is zijn was niet met op voor dat die te ik je jij hij zij wij mijn jouw wat wie waar wanneer "
    "waarom hoe deze dit er aan ook maar als om naar kan kunnen moet heb heeft hebben wordt worden nog door bij uit hallo dank "
    "welke welk mij ons onze geen meer veel hoeveel dan zo deze over wil ben bent zoals alle iets niets hier daar zou "
    "afbeelding foto beschrijf schrijf leg vul lijst samenvatting vertaal vertel toon geef stap stappen woorden woord man "
    "vrouw hond honden leven sterven doden auto merk zie staat graag alsjeblieft mogelijk goed help "
    "vandaag morgen twee drie jaar dag nooit altijd nu",
    "pl": "i w z na do się nie jest są to że co jak kiedy gdzie dlaczego kto czy o po od dla przez ale lub mój moja mi ty on ona "
    "my wy oni ten ta te tego tej tym być ma mam może proszę dziękuję już tylko bardzo także który która które jego jej za "
    "przy ile jaki jaka jakie jakiej jakiego mnie chcę ze tu tak "
    "obraz obrazek obrazku zdjęcie zdjęciu opisz napisz wyjaśnij wypełnij listę lista przetłumacz pokaż powiedz krok kroki "
    "słowa człowiek kobieta mężczyzna pies psów samochód marki żyć umrzeć zabić życie świecie dokładnie "
    "bez tekst tekście dzisiaj dziś jutro dobrze dwa trzy lat dzień moje twoje teraz nigdy",
    "sv": "och att det som en ett är var inte med på för av i till den de han hon vi jag du min din vad vem hur när varför om kan "
    "ska har hade men eller från mycket också detta denna dessa hej tack mig dig vilket vilken vilka här där finns många så "
    "vill mer bara någon något skulle från "
    "bild bilden beskriv skriv förklara fyll listan lista sammanfatta översätt berätta visa steg ord man kvinna hund hundar "
    "bil bilen märke leva dö döda liv längre noga ser "
    "idag imorgon två tre år dag nu aldrig alltid bra",
    "da": "og at det som en et er var ikke med på for af i til den de han hun vi jeg du min din hvad hvem hvordan hvornår hvorfor "
    "om kan skal har havde men eller fra meget også dette denne disse hej tak mig dig hvilket hvilken hvor mange der så vil "
    "mere kun noget nogen "
    "billede billedet beskriv skriv forklar udfyld listen liste oversæt fortæl vis trin ord mand kvinde hund hunde bil mærke "
    "leve dø dræbe liv nøje "
    "idag dag morgen to tre år nu aldrig altid godt mine dine min",
    "no": "og at det som en et er var ikke med på for av i til den de han hun vi jeg du min din hva hvem hvordan når hvorfor om kan "
    "skal har hadde men eller fra mye også dette denne disse hei takk meg deg hvilket hvilken hvor mange der så vil mer bare "
    "noe noen "
    "bilde bildet beskriv skriv forklar fyll listen liste oversett fortell vis steg ord mann kvinne hund hunder bil bilen "
    "merke leve dø drepe liv lenger "
    "idag dag morgen to tre år nå aldri alltid bra mine dine",
    "tr": "ve bir bu da de için ile ne nasıl neden kim nerede mi mı mu mü var yok çok daha gibi ben sen o biz siz onlar benim "
    "senin olan olarak ama veya değil her kadar sonra nedir lütfen merhaba teşekkürler bana şu kaç hangi şey ise en artık "
    "istiyorum istemiyorum yapmalıyım misin mısın "
    "resim resmi resimde resimdeki fotoğraf fotoğrafta görsel görseldeki anlat açıkla yaz doldur listeyi liste çevir özetle "
    "göster söyle adım kelime adam kadın köpek araba arabanın yaşamak ölmek öldürmek hayat "
    "bugün yarın iki üç yıl gün iyi kötü pek kendimi kendi şimdi hiç çünkü",
    "vi": "là và của có không được cho với trong một những các này đó tôi bạn anh chị em ông bà làm như thế nào gì ai đâu khi "
    "nếu nhưng để từ ra vào rất cũng xin chào cảm ơn vậy nữa hãy bao nhiêu muốn ảnh hình bức tả mô danh sách viết sống chết "
    "giúp chiếc xe con người "
    "hôm nay mai hai ba năm ngày bây giờ lắm",
    "id": "yang dan di ke dari untuk dengan ini itu adalah tidak saya kamu anda dia kami kita mereka apa siapa mana kapan "
    "mengapa bagaimana atau tetapi juga bisa dapat akan sudah belum ada pada sebagai oleh tolong terima kasih halo berapa "
    "banyak apakah lagi ingin mau seperti dalam jika kalau "
    "gambar foto jelaskan tuliskan tulis buat buatkan isi daftar terjemahkan ringkas sebutkan langkah kata orang mobil "
    "merek anjing hidup mati membunuh cara rinci bantu jenama kereta "
    "hari besok dua tiga tahun sekarang harga kurang",
    "ro": "și de la în cu pe un o este sunt nu ce cine cum când unde care pentru din sau dar mai foarte eu tu el ea noi voi ei "
    "meu mea acest această fi am ai are bună mulțumesc să câți câte cât aceasta acesta vreau îmi te rog "
    "imagine imaginea imagini fotografie descrie scrie explică completează lista traduce rezumă spune arată pași cuvinte "
    "mașină om femeie câini trăiesc trăi muri viață "
    "azi astăzi mâine doi trei ani zi bine acum",
    "cs": "a v na je se že to s z do o i jak kdy kde proč kdo co ale nebo jsem jsi jsou být má mám pro po při také který která "
    "můj moje tento tato prosím děkuji velmi už jen od za jaké jaká jaký kolik mi není toto tomto mě chci nechci "
    "obrázek obrázku fotce fotka popiš napiš vysvětli vyplň seznam přelož shrň ukaž řekni krok slova muž žena pes psů auto "
    "značky žít zemřít zabít život dělat "
    "bez text textu dnes zítra dva tři let den dobře teď moc které",
    "hr": "i u na je se da to s iz za od do kako kada gdje zašto tko što ko šta ali ili sam si su biti ima imam pri koji koja koje "
    "moj moja ovaj ova ovo taj ta molim hvala već samo nije nisu ne mi me koliko želim mogu može "
    "slika slici sliku fotografija fotografiji opiši napiši objasni popuni ispuni popis listu prevedi sažmi pokaži reci korak "
    "riječi čovjek žena pas pasa auto marke živjeti umrijeti ubiti život "
    "danas sutra dva tri godina dan dobro sada vrlo baš moje",
    "fi": "ja on ei se että hän minä sinä me te he oli mutta tai kun jos niin kuin mitä miten missä milloin miksi kuka tämä "
    "tuo nämä voi olla ovat myös vain hyvin kiitos hei minun sinun en enää mikä minkä montako kuinka monta oleva haluan "
    "halua voit joka kuva kuvan kuvassa kuvaile selitä kirjoita täytä lista luettelo käännä tiivistä kerro näytä vaihe sana "
    "sanat mies nainen koira koiraa auto merkkinen elää kuolla tappaa elämä "
    "tänään huomenna kaksi kolme vuotta päivä hyvä paljonko paljon nyt minulle tämän tästä kovin",
    "hu": "a az és egy nem is hogy van volt de vagy ha mi ki hol mikor miért hogyan ez azt ezt én te ő mi ti ők csak már még "
    "nagyon lesz kell lehet mint el meg köszönöm szia milyen hány mennyi melyik akarok tovább nekem kérlek le be ki fel "
    "kép képet képen képről írd írj le magyarázd töltsd listát fordítsd foglald mutasd mondd lépés szó szavak ember nő férfi "
    "kutya autó élni meghalni megölni élet részletesen "
    "ma holnap két három év nap jó nagy most soha magam nekem mennyibe",
    "ca": "el la els les un una uns unes de del dels i en que és són està per amb com es seu seva més però aquest aquesta això "
    "quin quina quins quines quan on qui em meu meva hi ha ser puc tinc vull fer perquè sense també molt hola gràcies l' d' "
    "tots totes imatge foto descriu escriu explica omple llista resumeix tradueix digues mostra paraules gos cotxe marca "
    "avui demà dos tres anys dia ara bé gaire mai meves meus molt quant",
    "lt": "ir yra ne kad tai su iš į ant už apie kaip kas kada kur kodėl bet ar aš tu jis ji mes jūs šis ši tas mano tavo buvo "
    "būti turi gali labai prašau ačiū labas kokia koks kokios kiek "
    "nuotrauka nuotraukoje paveikslėlis paveikslėlyje aprašyk parašyk paaiškink užpildyk sąrašą automobilis markės gyventi",
    "sw": "na ya wa ni kwa la za katika hii hiyo mimi wewe yeye sisi nini nani wapi lini jinsi gani lakini au pia hili "
    "sana habari asante je kama ili huu tafadhali picha eleza andika orodha jaza gari aina kwenye yangu yako undani ngapi mbwa "
    "leo kesho mbili tatu mwaka siku sasa vizuri kabisa",
    "tl": "ang ng sa na mga ay at ko mo siya kami tayo sila ito iyon ano anong sino saan kailan bakit paano hindi oo para kung "
    "pero din rin lang po salamat larawan ilarawan isulat ipaliwanag listahan kotse tatak ilan aso gusto mabuhay "
    "ngayon bukas dalawa tatlo taon araw magkano",
    "zu": "ukuthi futhi kanye ngiyabonga sawubona kanjani yini ubani kuphi nini ngoba uma kodwa noma lokhu lokho mina wena yena "
    "thina bona ngicela ungangisiza ngakha ngenza indlela",
}
_BY_WORD: dict[str, tuple[str, ...]] = {}
for _language, _list in _WORDS.items():
    for _word in set(_list.split()):
        _BY_WORD[_word] = (*_BY_WORD.get(_word, ()), _language)

_ALPHABETS = {
    language: frozenset(letters)
    for language, letters in {
        "es": "áéíóúüñ",
        "de": "äöüß",
        "fr": "àâæçéèêëîïôœùûüÿ",
        "pt": "áâãàçéêíóôõúü",
        "it": "àèéìíîòóù",
        "nl": "éëïóöüèê",
        "pl": "ąćęłńóśźż",
        "sv": "åäöé",
        "da": "æøåé",
        "no": "æøåéòô",
        "tr": "çğıöşüâîû",
        "ro": "ăâîșțşţ",
        "cs": "áčďéěíňóřšťúůýž",
        "hr": "čćđšž",
        "fi": "äöå",
        "hu": "áéíóöőúüű",
        "ca": "àçèéíïòóúü",
        "lt": "ąčęėįšųūž",
        "id": "é",
    }.items()
}
"""The letters beyond a to z that the words of a language may have. One outside speaks against the language."""

_SHAPES = {
    "es": "ñ -ción -ciones -iendo -mente -dad -illo -illa",
    "de": "sch pf tz chts ß äu -ung -keit -heit -lich -chen -ieren -nde",
    "fr": "oi ê û œ -eau -eaux -tion -ment -eux -euse -ique -ée -ées -ère -ais -ait -ez -oir",
    "pt": "lha lhe lho nha nhe nho -ção -ções -ão -ões -agem -mente -dade -ou",
    "it": "cch ggi zz -zione -zioni -are -ere -ire -ato -ata -ando -endo -mente -tà -gli -glia",
    "nl": "ij aa uu oe eeu sch -cht -lijk -heid -tje -jes",
    "pl": "cz sz rz dz prz -ego -emu -ość -ymi -ych -ów -cie -uje",
    "sv": "å sjö skj -ning -arna -erna -het -ligt -ade",
    "da": "ø æ å -ning -erne -hed -ligt -ede",
    "no": "ø æ å kj skj -ning -ene -het -lig",
    "tr": "ğ ı ş -lar -ler -yor -yorum -mak -mek -dir -lik -nin -deki",
    "fi": "aa ää yy uu öö uo yö -ssa -ssä -sta -stä -lla -llä -inen -sti -mme",
    "hu": "sz gy zs cs -nak -nek -ban -ben -ság -ség -ról -ről -hoz -hez",
    "id": "meng peng -kan -nya -lah",
    "cs": "ě ř ů -ost -ého -ých -ání -ení -ový -ová",
    "ro": "ț ș ă -ului -ilor -ează -ește -țiune -ești",
    "hr": "-nje -nja -ost -ima -ski -ska -ati -iti",
}
"""Groups of letters, and endings ("-"), that the words of a language often have and English ones seldom."""
_BY_SHAPE: dict[str, set[str]] = defaultdict(set)
for _language, _shapes in _SHAPES.items():
    for _shape in _shapes.split():
        _BY_SHAPE[_shape].add(_language)
_GROUP_SIZES = sorted({len(shape) for shape in _BY_SHAPE if shape[0] != "-"})
_ENDING_SIZES = sorted({len(shape) - 1 for shape in _BY_SHAPE if shape[0] == "-"})

_VIETNAMESE = re.compile(r"[ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹđơư]")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NOT_PROSE = re.compile(r"https?://\S+|`[^`]*`|\$[^$]*\$|\\[a-zA-Z]+|<[^>]{0,80}>|(?<!\S)[^\s@/\\_{}=]*+[@/\\_{}=]\S*")
_OF_NO_PROSE = re.compile(r"[`$\\<@/_{}=]")
"""One of these stands in everything that ``_NOT_PROSE`` finds, and none in most texts."""

_FOREIGN_LETTER = re.compile("[\u0400-\u1dff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")


def detect(text: str) -> str:
    """ISO 639 code of the language, or "und" when the text is too short or too mixed to tell."""
    if len(text) > _SAMPLE:
        third, middle = _SAMPLE // 3, len(text) // 2
        text = f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"
    return _detect(text)


def count_foreign_letters(text: str) -> int:
    """Letters of scripts other than Latin and Greek (which mathematics borrows)."""
    return len(_FOREIGN_LETTER.findall(text))


@lru_cache(maxsize=2048)
def _detect(sample: str) -> str:
    prose = _NOT_PROSE.sub(" ", sample) if _OF_NO_PROSE.search(sample) else sample
    if prose.isascii():
        tokens = _TOKEN.findall(prose.lower())
        return _by_words(tokens) if sum(map(len, tokens)) > 1 else "und"
    letters = sum(map(str.isalpha, prose))
    if letters < 2:
        return "und"
    return _by_script(prose, letters) or _by_words([token.lower().replace("’", "'") for token in _TOKEN.findall(prose)])


def _by_script(text: str, letters: int) -> str | None:
    counts = {language: len(pattern.findall(text)) for language, pattern in _SCRIPTS}
    if counts["ja"] > 0.05 * letters:
        counts["ja"] += counts.pop("zh")
    language = max(counts, key=lambda language: counts[language])
    weight = _DENSE.get(language, 1)
    said = counts[language] * weight
    if said <= (0.5 if weight > 1 else 0.4) * (letters + said - counts[language]):
        return None
    if language == "ar":
        return "ur" if _URDU.search(text) else "fa" if _PERSIAN.search(text) else "ar"
    return "uk" if language == "ru" and _UKRAINIAN.search(text) else language


def _by_words(tokens: list[str]) -> str:
    if not tokens:
        return "und"
    votes, known = _votes(tokens)
    if not votes:
        return "und"
    (best, count), *others = sorted(votes.items(), key=lambda item: -item[1])
    second = others[0][1] if others else 0.0
    english = votes.get("en", 0.0)
    # English is what short, technical and mixed text is assumed to be; another language has to show itself.
    if best == "en":
        return "en" if english >= 0.1 * len(tokens) else "und"
    sizes = [len(word) for word in known[best]]
    if count >= 2 * english and (max(sizes) > 2 or sum(size > 1 for size in sizes) > 2):
        # A sentence without English is foreign, even if it is open which of two sisters (Danish, Norwegian) it is in.
        if len(tokens) >= 5 and english < 1 and count >= 0.9:
            return best
        if len(known[best]) >= 2 and count >= max(1.4, 0.15 * len(tokens), 1.08 * second):
            return best
    return "en" if english >= 2 and english >= 0.7 * count else "und"


def _votes(tokens: list[str]) -> tuple[dict[str, float], dict[str, set[str]]]:
    """What speaks for each language, and the words of it that were met."""
    votes: dict[str, float] = defaultdict(float)
    known: dict[str, set[str]] = defaultdict(set)
    for token in tokens:
        owners = _owners(token)
        for owner in owners:
            votes[owner] += 0.5 + 0.5 / len(owners)
            known[owner].add(token)
    for token in tokens:
        if not token.isascii():
            _weigh_letters(token, votes, known)
            continue
        # Nobody's words are that long: they would fill the memory.
        for language in _resembled(token) if len(token) <= _LONGEST_WORD else _resembled.__wrapped__(token):
            if language in known and token not in known[language]:
                votes[language] += 0.4
    return votes, known


def _owners(token: str) -> tuple[str, ...]:
    """The languages that have a word, or what stands before its apostrophe."""
    owners = _BY_WORD.get(token, ())
    if not owners and "'" in token:
        owners = _BY_WORD.get(token[: token.index("'") + 1], ())
    return owners


def _weigh_letters(token: str, votes: dict[str, float], known: dict[str, set[str]]) -> None:
    """What the letters beyond a to z say of the languages of which words were met."""
    beyond = {letter for letter in token if not letter.isascii()}
    for language, words in known.items():
        if language == "en" or token in words:
            continue
        if language == "vi":
            votes[language] += 0.5 if _VIETNAMESE.search(token) else 0.0
        elif not beyond <= _ALPHABETS.get(language, frozenset()):
            votes[language] -= 1.0
        else:
            votes[language] += 0.4


@lru_cache(maxsize=32_768)
def _resembled(token: str) -> frozenset[str]:
    """The languages whose words have such letters and endings. Remembered: of all that telling a language takes, this took half
    the time."""
    shapes = [f"-{token[-size:]}" for size in _ENDING_SIZES]
    shapes += [token[at : at + size] for size in _GROUP_SIZES for at in range(len(token) - size + 1)]
    return frozenset(language for shape in shapes for language in _BY_SHAPE.get(shape, ()))
