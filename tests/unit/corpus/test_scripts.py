"""Text in any script comes through whole, from file to pieces: its words, and every letter and mark of them."""

import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from knnlm.corpus import bpe
from knnlm.corpus.dictionary import UNITS
from knnlm.corpus.text import decode
from knnlm.corpus.tokenise import TOKENISERS, tokenise

# A sentence as an editor may have saved it, and its words; a word stands as one reads it, composed where that can be.
SENTENCES = {
    "French, decomposed": ("L'e\u0301le\u0300ve a \u00e9te\u0301 re\u00e7u.", "L 'élève a été reçu ."),
    "German, decomposed": ("Er fa\u0308hrt u\u0308ber die Bru\u0308cke.", "Er fährt über die Brücke ."),
    "Vietnamese, decomposed": ("Tie\u0302\u0301ng Vie\u0323\u0302t co\u0301 da\u0302\u0301u.", "Tiếng Việt có dấu ."),
    "no composed form": ("n\u0302a m\u0302-k\u0331, q\u0323's", "n\u0302a m\u0302 @-@ ḵ , q\u0323 's"),
    "Hindi with a joiner": (
        "\u0936\u094d\u0930\u0940\u200d\u092e\u093e\u0928\u0964",
        "\u0936\u094d\u0930\u0940\u200d\u092e\u093e\u0928 \u0964",
    ),
    "Bengali": ("আমি বাংলায় গান গাই।", "আমি বাংলায় গান গাই ।"),
    "Tamil": ("வணக்கம், உலகம்!", "வணக்கம் , உலகம் !"),
    "Sinhala with a joiner": ("ශ්\u200dරී ලංකාව", "ශ්\u200dරී ලංකාව"),
    "Thai": ("ภาษาไทย ที่นี่", "ภาษาไทย ที่นี่"),
    "Tibetan": ("བོད་སྐད།", "བོད ་ སྐད །"),
    "Arabic with marks": ("مَرْحَبًا، كَيْفَ حَالُكَ؟", "مَرْحَبًا ، كَيْفَ حَالُكَ ؟"),
    "Persian with a non-joiner": ("می\u200cخواهم (کتاب\u200cها)", "می\u200cخواهم ( کتاب\u200cها )"),
    "Hebrew with points": ("בְּרֵאשִׁית, בָּרָא.", "בְּרֵאשִׁית , בָּרָא ."),
    "Korean": ("나는 학교에 간다.", "나는 학교에 간다 ."),
    "Korean in letters": ("\u1102\u1161\u1102\u1173\u11ab", "나는"),
    "Greek": ("Καλημέρα, κόσμε;", "Καλημέρα , κόσμε ;"),
    "Georgian capitals": ("ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ", "ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ"),
    "Amharic": ("ሰላም ዓለም።", "ሰላም ዓለም ።"),
    "Adlam, beyond the basic plane": ("𞤆𞤵𞤤𞤢𞤪 \U0001e90a's", "𞤆𞤵𞤤𞤢𞤪 \U0001e90a 's"),
    "soft hyphen": ("co\u00adoperate", "co\u00adoperate"),
    "emoji": (
        "I \u2764\ufe0fyou, 👍🏽👍🏽 👨\u200d👩\u200d👧! 1\ufe0f\u20e3 🇩🇪🇫🇷",
        "I \u2764\ufe0f you , 👍🏽 👍🏽 👨\u200d👩\u200d👧 ! 1\ufe0f\u20e3 🇩🇪 🇫🇷",
    ),
    "flag of tags": (
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f.",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f .",
    ),
}
IN_CHARACTERS = {
    "Chinese": ("我喜歡iPhone 15，你呢？", "我 喜 歡 iPhone 15 ， 你 呢 ？"),
    "Chinese, rare and with a variant": ("𠮷野家 葛\U000e0100城", "𠮷 野 家 葛\U000e0100 城"),
    "Japanese": ("私はコーヒーを飲む。時々、佐々木", "私 は コ ー ヒ ー を 飲 む 。 時 々 、 佐 々 木"),
    "Japanese, decomposed": ("か\u3099くせい", "が く せ い"),
    "Japanese, narrow": ("ｶﾞｸｾｲ", "ｶﾞ ｸ ｾ ｲ"),
    "Korean stays": ("나는 學生이다.", "나는 學 生 이다 ."),
    "English stays": ("It's 1,000 well-known facts.", "It 's 1 @,@ 000 well @-@ known facts ."),
}


@pytest.mark.parametrize("script", SENTENCES)
def test_words_of_a_sentence(script):
    saved, words = SENTENCES[script]
    (line,) = decode(saved.encode(), script, "nfc")
    assert tokenise(line).split() == words.split()


@pytest.mark.parametrize("script", IN_CHARACTERS)
def test_words_of_a_sentence_in_characters(script):
    saved, words = IN_CHARACTERS[script]
    (line,) = decode(saved.encode(), script, "nfc")
    assert tokenise(line, characters=True).split() == words.split()


def test_without_normalisation_text_is_left_alone():
    assert decode("fa\u0308hrt \ufb01ne".encode(), "text", "none") == ["fa\u0308hrt \ufb01ne"]
    assert tokenise("fa\u0308hrt \ufb01ne") == "fa\u0308hrt \ufb01ne"
    assert decode("fa\u0308hrt \ufb01ne".encode(), "text", "nfc") == ["fährt \ufb01ne"]


def letters_and_marks(text: str) -> list[str]:
    """Return the letters, marks and digits of a text, and the joiners, in order."""
    return [
        c for c in text if unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nd" or c in "\u200c\u200d"
    ]


TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs", "Cc"]), st.sampled_from(" '.,-\u0301\u093f\u200d")), max_size=40
)


@settings(deadline=None, max_examples=300)
@given(TEXT, st.sampled_from([*TOKENISERS]))
@example("\u0936\u094d\u0930\u0940\u200d\u092e\u093e\u0928", "moses")
def test_no_letter_and_no_mark_of_any_script_is_lost(text, tokeniser):
    assert letters_and_marks(TOKENISERS[tokeniser](text)) == letters_and_marks(text)


ALPHABETIC = st.characters(categories=["L", "M", "Nd"]).filter(
    lambda c: "CJK" not in unicodedata.name(c, "") and c not in "\u3005\u303b\U00016ff0\U00016ff1"
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.text(st.one_of(ALPHABETIC, st.sampled_from("\u200c\u200dåä\u0301")), min_size=1, max_size=8), max_size=8
    )
)
def test_letters_marks_and_joiners_between_spaces_are_one_word(words):
    assert tokenise(" ".join(words)).split() == words


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["❤️", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "#️⃣", "♥", "🏳️\u200d🌈", "⚕"]), max_size=8))
def test_emoji_without_spaces_between_them_are_told_apart(emoji):
    assert tokenise("".join(emoji)).split() == emoji


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(TEXT, min_size=1, max_size=4), tokeniser=st.sampled_from([*TOKENISERS]))
def test_joined_pieces_are_the_tokenised_text(lines, tokeniser, tmp_path):
    """Also where words have marks: BPE is learned on the same text, so it can say each of its words."""
    lines = [TOKENISERS[tokeniser](line) for line in lines] * 2
    words = " ".join(lines).split()
    if not set(words) - set(UNITS):
        return
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    encoder = bpe.Encoder(bpe.learn(path, set(words), 50))
    for line in lines:
        assert encoder(line).replace("@@ ", "") == " ".join(line.split())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), st.sampled_from([*TOKENISERS]))
def test_a_text_has_no_more_pieces_than_bytes_whatever_its_script(text, tokeniser):
    """What the bound of the config's checks rests on, after normalisation too, where a character may become three."""
    if text.strip() and (data := f"x{text}".encode()):
        (line,) = decode(data, "text", "nfc")
        pieces = sum(1 if word in UNITS else len(word) for word in TOKENISERS[tokeniser](line).split()) + 1
        assert pieces <= len(data) + 1
