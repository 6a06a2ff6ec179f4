from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.language import _NOT_PROSE, _OF_NO_PROSE, _SHAPES, _resembled, detect

SENTENCES = {
    "en": [
        "What is the name of this bird in the picture?",
        "Translate 你好吗",
        "What does 你好 mean?",
        "Describe the café in São Paulo where Señora Muñoz works",
    ],
    "es": [
        "¿Cómo se llama este pájaro de la imagen?",
        "Describe la imagen",
        "Quisiera saber la hora del próximo tren",
        "El gato duerme junto a la ventana abierta",
    ],
    "de": [
        "Wie heißt der Vogel auf diesem Bild?",
        "Beschreibe das Bild",
        "Schlage mir drei Bücher vor",
        "Die Katze schläft neben dem offenen Fenster",
    ],
    "fr": [
        "Quel est le nom de cet oiseau sur l'image ?",
        "Décris cette image",
        "Combien coûte un billet pour Lyon",
        "Le chat dort près de la fenêtre ouverte",
    ],
    "zh": ["图片里的这只鸟叫什么？", "猫在窗边睡觉", "用Python写一个排序函数"],
    "hi": ["इस चित्र में यह कौन-सा पक्षी है?", "बिल्ली खिड़की के पास सोती है"],
    "ar": ["ما اسم هذا الطائر في الصورة؟", "القطة تنام قرب النافذة"],
    "pt": ["Qual é a marca deste carro?", "O gato dorme perto da janela que está aberta"],
    "it": ["Descrivi l'immagine con tutti i dettagli", "Il gatto dorme vicino alla finestra aperta"],
    "nl": ["Vul de lijst in de afbeelding in", "De kat slaapt naast het open raam"],
    "pl": ["Jakie trzy książki polecasz na wakacje?", "Kot śpi przy oknie, które jest otwarte"],
    "tr": ["Hangi üç kitabı önerirsin?", "Kedi pencerenin yanında uyuyor ve çok mutlu"],
    "vi": ["Hãy mô tả bức ảnh này", "Con mèo ngủ bên cạnh cửa sổ"],
    "id": ["Berapa harga tiket ke Jakarta?", "Kucing itu tidur di dekat jendela yang terbuka"],
    "sv": ["Beskriv bilden så noga du kan", "Katten sover bredvid det öppna fönstret"],
    "da": ["Hvad koster en billet til København?"],
    "no": ["Hva koster en billett til Oslo?"],
    "fi": ["Mitä kolmea kirjaa suosittelet minulle?", "Kissa nukkuu avoimen ikkunan vieressä ja on hyvin väsynyt"],
    "cs": ["Které tři knihy doporučuješ na prázdniny?", "Kočka spí u okna, které je otevřené"],
    "hu": ["Melyik három könyvet ajánlod?", "A macska az ablak mellett alszik és nem ébred fel"],
    "ro": ["Câți câini sunt în fotografie?", "Pisica doarme lângă fereastra care este deschisă"],
    "ru": ["Как называется эта птица на фотографии?"],
    "uk": ["Як називається цей птах і де він живе?"],
    "el": ["Τι μάρκα είναι αυτό το αυτοκίνητο;"],
    "he": ["מה שם הציפור הזאת בתמונה?"],
    "ja": ["この写真の鳥の名前は何ですか？"],
    "ko": ["이 사진에 있는 새의 이름은 무엇인가요?"],
    "th": ["นกตัวนี้ชื่ออะไร"],
    "fa": ["نام این پرنده چیست و کجا زندگی می‌کند؟ گل"],
    "ur": ["اس تصویر میں یہ کون سا پرندہ ہے؟"],
    "bn": ["ছবির এই পাখিটির নাম কী?"],
}


@pytest.mark.parametrize(
    ("language", "text"), [(language, text) for language, texts in SENTENCES.items() for text in texts]
)
def test_languages_are_told_apart(language: str, text: str) -> None:
    assert detect(text) == language
    assert detect(text.upper()) == language
    assert detect(" ".join([text] * 3000)) == language


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "what brand is this?",
        "def f(x): return x + 1",
        "SELECT a, b FROM de WHERE x IN (1, 2)",
        "$x^2 = \\frac{1}{2}$",
        "\\int_0^1 x^2 dx",
        "",
        "12 + 7",
        "OK",
        "Café Luna",
        "El Niño effects",
        "La Liga table",
        "Van der Waals forces",
        "Is la croix healthy",
        "Beethoven Für Elise chords",
        "Was ist das means what in English",
        "me gusta meme origin",
        "is dit dah morse code",
        "In figure, PQ is tangent to circle with centre O",
        "Options: (A): repel (B): attract",
        "https://a.example/de/der/die/das",
        "TOTAL 7.30",
        "ec2 S fb t 5 r a o 6e1 n 7 z s v je 8fc r b9 e bb z 7",
    ],
)
def test_short_and_technical_text_is_never_called_foreign(text: str) -> None:
    assert detect(text) in ("en", "und")


@given(st.text(max_size=400))
def test_every_text_has_an_answer(text: str) -> None:
    assert detect(text).islower()


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz 0123456789.,!?", max_size=12))
def test_one_word_is_not_enough_to_be_sure(text: str) -> None:
    if len(re.findall("[a-z]+", text)) < 2:
        assert detect(text) in ("en", "und")


_SHAPE_PIECES = sorted({shape.lstrip("-") for shapes in _SHAPES.values() for shape in shapes.split()})


@given(
    st.lists(
        st.one_of(st.sampled_from(_SHAPE_PIECES), st.text(alphabet="abenstuz\u00e4\u00f8'", max_size=3)), max_size=4
    )
)
def test_a_word_resembles_the_languages_whose_groups_it_holds_or_whose_endings_it_has(pieces: list[str]) -> None:
    token = "".join(pieces)
    expected = {
        language
        for language, shapes in _SHAPES.items()
        for shape in shapes.split()
        if (token.endswith(shape[1:]) if shape[0] == "-" else shape in token)
    }
    assert _resembled(token) == expected


def test_endless_words_are_told_alike_and_not_remembered() -> None:
    from vlmguard import language

    assert detect("wie geht es dir heute mit und was machst du?") == "de"
    before = language._resembled.cache_info().currsize
    assert all(
        detect(f"wie geht es dir heute mit {'schreiben' * number} und was machst du?") == "de" for number in (8, 9, 100)
    )
    assert language._resembled.cache_info().currsize == before


@given(st.text(st.sampled_from("ab /:$`<>@\\_{}=.httpsé"), max_size=40))
def test_what_is_looked_for_first_stands_in_all_that_is_no_prose(text: str) -> None:
    assert not _NOT_PROSE.search(text) or _OF_NO_PROSE.search(text)
