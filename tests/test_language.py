from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.language import detect


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What is the name of this bird in the picture?"),
        ("es", "¿Cómo se llama este pájaro de la imagen?"),
        ("de", "Wie heißt der Vogel auf diesem Bild?"),
        ("fr", "Quel est le nom de cet oiseau sur l'image ?"),
        ("zh", "图片里的这只鸟叫什么？"),
        ("hi", "इस चित्र में यह कौन-सा पक्षी है?"),
        ("ar", "ما اسم هذا الطائر في الصورة؟"),
        ("pt", "Qual é o nome deste pássaro que está na foto da minha avó?"),
        ("it", "Come si chiama questo uccello che è nella foto della nonna?"),
        ("nl", "Hoe heet deze vogel die op de foto van mijn oma staat?"),
        ("pl", "Jak nazywa się ten ptak, który jest na zdjęciu i gdzie on mieszka?"),
        ("tr", "Bu resimdeki kuşun adı nedir ve nerede yaşar, bana söyler misin?"),
        ("ru", "Как называется эта птица на фотографии?"),
        ("ja", "この写真の鳥の名前は何ですか？"),
        ("ko", "이 사진에 있는 새의 이름은 무엇인가요?"),
        ("uk", "Як називається цей птах і де він живе?"),
        ("fa", "نام این پرنده چیست و کجا زندگی می‌کند؟ گل"),
    ],
)
def test_languages_are_told_apart(language: str, text: str) -> None:
    assert detect(text) == language
    assert detect(" ".join([text] * 3000)) == language


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "what brand is this?",
        "def f(x): return x + 1",
        "$x^2 = \\frac{1}{2}$",
        "",
        "12 + 7",
        "OK",
        "Café Luna",
        "Options: (A): repel (B): attract",
        "https://a.example/de/der/die/das",
        "TOTAL 7.30",
    ],
)
def test_short_and_technical_text_is_never_called_foreign(text: str) -> None:
    assert detect(text) in ("en", "und")


@given(st.text(max_size=400))
def test_every_text_has_an_answer(text: str) -> None:
    assert detect(text)
