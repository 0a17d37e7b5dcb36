"""Texts of language models that are no answer: refusals, and stand-ins for a text that is still to come.

Each test is meant to let honest texts pass: it looks at a whole text or at its beginning, never for a word
somewhere in it alone. It goes by typical words in English, German, French, Spanish, Chinese and Japanese: by
what they lack refusals are not told from short honest answers.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["has_words", "is_about_declining", "is_placeholder", "is_refusal"]

_AROUND = " \t\r\n\"'`*“”‘’„«»「」"  # white space, quotation marks and emphasis say nothing of a text
# What people and schemas write where a text is still to come; in other cases they are words ("todo").
_STAND_INS = frozenset({"string", "TODO", "[TODO]", "TBD", "[TBD]", "N/A", "n/a", "[N/A]"})
_ELLIPSIS = re.compile(r"[\[<({]?\s*(?:\.{3,}|…+)\s*[\])>}]?")
_BRACKETED = re.compile(r"\[[^\[\]]+\]|<[^<>]+>|\{[^{}]+\}|【[^【】]+】|［[^［］]+］")
# Names of a text to come, and all that may stand beside them: a hint says nothing else.
_TO_COME = (
    "(?:instruction|response|answer|critique|antwort|anweisung|kritik|réponse|consigne|respuesta|instrucción)"
)
_BESIDE = (
    r"a|actual|add|an|better|enter|final|for|goes|here|improved|insert|new|of|place|put|revised|rewritten|the"
    r"|to|type|updated|write|your"
    r"|deine|die|eingeben|einfügen|hier|ihre|neue|überarbeitete|verbesserte"
    r"|améliorée|ici|insérez|la|nouvelle|votre|aquí|escriba|inserte|mejorada|nueva|su|tu"
)
_HINT = re.compile(rf"(?=.*\b{_TO_COME}\b)(?:(?:{_BESIDE}|{_TO_COME})(?:[\s-]+|$))+", re.IGNORECASE)
_HINT_WITHOUT_SPACES = re.compile(
    "(?:在|请|此处|这里|您|你|的|新|改进|后|填写|输入|插入|ここ|に|を|の|入力|記入|挿入|新しい|改善|された|あなた)*"
    "(?:回答|答案|回复|指令|指示|批评|答え|応答|批評)(?:在此|此处|这里|を|入力|記入|挿入|する|してください|ここに)*"
)
_HINT_HERE = re.compile(
    r"(?:add|enter|insert|place|put|type|write|your)\b.*\bhere|.*\bhier (?:ein|hin)\w+"
    r"|(?:écrivez|entrez|insérez|votre)\b.*\bici|(?:escrib|ingres|insert)\w+\b.*\baquí|(?:tu|su)\b.*\baquí"
    r"|在?(?:此处|这里|此)(?:填写|输入|插入).*|ここに.*(?:入力|記入|挿入).*",
    re.IGNORECASE,
)
_AS_ABOVE = re.compile(
    r"(?:same|as|see) (?:as )?(?:above|before)|same as (?:the )?(?:given|old|original|previous)(?: \w+)?"
    r"|(?:siehe|wie|gleich wie) oben|idem|(?:voir|comme) ci-dessus|(?:lo mismo|igual) que (?:arriba|antes)"
    r"|(?:ver|véase) (?:más )?arriba|同上(?:です)?|(?:见|如)上文?|与上(?:文|述)?相同"
    r"|(?:上記|前)(?:と同じ|と同様|の通り|参照|を参照)",
    re.IGNORECASE,
)
_HERE = re.compile("(?:here|hier|einfügen|ici|aquí)$|此|这里|ここ", re.IGNORECASE)
_LONGEST_HINT = 60  # characters; "[response to the new instruction]" has 33

# Refusals in English.
_LONGEST_REFUSAL = 500  # bytes, some four sentences in any script; what is longer answers something as well
_SORRY = (
    r"(?:(?:I'm |I am )?(?:very |so |truly |really )?sorry|I apologi[sz]e|(?:my )?apologies|unfortunately"
    r"|I'm afraid|I regret that)(?: for [^.,]{1,60})?[,.;:!]?\s(?:but )?"
)
_AS_AN_AI = r"as an (?:AI|artificial intelligence)(?: language)?(?: model| assistant)?,? "
_CANNOT = r"I (?:can't|cannot|can not|won't|will not|am unable to|am not able to)|I'm (?:unable|not able) to"
# "this request", or "this" at the end of a clause: "this Saturday" is what a person cannot help with.
_REQUEST = (
    r"(?:(?:(?:that|this|these|those|such|any|your|the)(?: an?| kinds? of| types? of)? )?"
    r"(?:content|instructions?|materials?|prompts?|query|questions?|requests?|tasks?|topics?)\b"
    r"|(?:that|this|it)(?=[.,;!?]|$))"
)
_TASK = (
    rf"(?:assist|help)(?: you)? (?:with|in) (?:{_REQUEST}|(?:answering|bypassing|creating|developing"
    r"|generating|hacking|improving|obtaining|producing|providing|rewriting|writing)\b)"
    rf"|(?:accommodate|answer|comply with|engage (?:in|with)|fulfill?|improve|respond to|rewrite) {_REQUEST}"
    r"|(?:create|generate|produce|provide|write) (?:you with )?(?:\w+ ){0,2}"
    r"(?:(?:content|material)\b|(?:advice|assistance|guidance|information|instructions)(?: (?:and|or) \w+)?"
    r" (?:about|for|on|that|to|with)\b)"  # who "cannot provide real-time information." may go on to help
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY})?(?:(?:{_AS_AN_AI})?(?:{_CANNOT}) (?:{_TASK})"
    rf"|{_AS_AN_AI}(?:{_CANNOT}) (?!.*\b(?:but|however)\b)[^.!?]*[.!?]?$"  # one sentence that offers nothing
    rf"|I (?:must|have to) (?:respectfully )?decline (?:to (?:{_TASK})|{_REQUEST}))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][^\w\s]*\s+")
# What else one says who declines: why, what else one may ask, what one would do instead.
_DECLINING_ON = re.compile(
    r"(?:(?:instead, |perhaps |however, )?I(?:'d|'ll|'m| am| can| can't| cannot| could| encourage| hope| must"
    r"| recommend| suggest| was| will| would)|feel free|if (?:you|there)|is there|let me"
    r"|my (?:goal|guidelines|purpose|role)|please)\b"
    r"|.*\b(?:dangerous|ethical|guidelines|harm|harmful|illegal|inappropriate|offensive|polic(?:y|ies)|unethical"
    r"|unsafe)\b",
    re.IGNORECASE,
)
_OTHER_SENTENCES = 1  # that a refusal may go on with; what says more may well answer


class _Words(NamedTuple):
    """What the first sentence of a refusal is made of, in one language."""

    sorry: str
    as_an_ai: str
    cannot: str
    request: str  # what was asked for, or the help with it


_OTHERS = {
    "German": _Words(
        r"(?:es )?tut mir (?:\w+ )?leid|entschuldigung|verzeihung|leider|ich bedaue?re",
        r"als (?:\w+ )?(?:KI\b|künstliche Intelligenz|Sprachmodell)",
        r"(?:ich (?:kann|darf)|(?:kann|darf) ich)\b[^.!?]*\b(?:nicht|kein\w*)\b"
        r"|(?:ich bin|bin ich)\b[^.!?]*\bnicht in der Lage|(?:ich muss|muss ich)\b[^.!?]*\bablehnen",
        r"(?:dabei|damit|hierbei)\b[^.!?]*\b(?:\w*helfen|behilflich|unterstützen)"
        r"|(?:dies|solch|ihre|deine)\w* (?:art \w+ )?(?:anfrage|anliegen|aufforderung|aufgabe|bitte"
        r"|frage|inhalt|wunsch)"
        r"|kein\w* (?:\w+ )?(?:anleitung|auskunft|auskünfte|hilfe|informationen|inhalte|ratschläge)",
    ),
    "French": _Words(
        r"(?:je suis |je )?(?:\w+ment )?(?:désolée?|navrée?)|je m'excuse|malheureusement|je regrette",
        r"en tant (?:qu'|que )(?:IA\b|intelligence artificielle|assistante? (?:IA|virtuel)"
        r"|modèle (?:d'IA|de langage))",
        r"je ne (?:peux|puis|suis)(?: \w+ment)? pas|je dois (?:décliner|refuser)|je suis incapable",
        r"(?:aider|assister) (?:avec|dans|sur|pour|à) (?:cela|ça|cette|ce|votre|ta)\b|vous y aider|y répondre"
        r"|(?:cette|votre|ta|ce genre de|ce type de) (?:contenu|demande|question|requête|tâche)"
        r"|fournir (?:\w+ ){0,2}(?:d')?(?:aide|assistance|conseils|contenu|informations?|instructions)",
    ),
    "Spanish": _Words(
        r"lo (?:siento|lamento)(?: mucho)?|lamento|disculp\w+|perdón|lamentablemente|desafortunadamente"
        r"|me temo que",
        r"como (?:una? )?(?:IA\b|inteligencia artificial|asistente (?:de IA|virtual)"
        r"|modelo de (?:IA|lenguaje))",
        r"no (?:puedo|podré|me es posible|estoy en condiciones de|soy capaz de)|debo (?:declinar|rechazar)",
        r"(?:asistir|ayudar)\w* (?:con|en) (?:eso|esto|esa|ese|esta|este|tu|su)\b"
        r"|(?:est[ae]|es[ae]|tu|su|este tipo de|ese tipo de) (?:contenido|petición|pregunta|solicitud|tarea)"
        r"|(?:brindar|dar|ofrecer|proporcionar)\w* (?:\w+ ){0,1}(?:asistencia|ayuda|consejos|información"
        r"|instrucciones)",
    ),
    "Chinese": _Words(
        "我?(?:很|非常|十分|真的|深感)?(?:抱歉|对不起|對不起|遗憾|遺憾)|不好意思",
        "(?:我是|作为|作為)(?:一个|一個|一名|一款)?(?:AI|人工智能|人工智慧|大?型?语言模型|大?型?語言模型|大模型)",
        "我?(?:无法|無法|不能|没办法|没有办法|不便|拒绝)",
        "(?:这|這|此|该|該|您的|你的)(?:个|個|种|種|类|類|项|样|樣)?的?(?:问题|問題|请求|請求|要求|内容|內容|任务)"
        "|(?:帮助|帮到|协助|協助|幫助)(?:您|你)(?=[。，！,!]|$)|相关内容|提供[^。！？]*(?:信息|建议|帮助|指导|内容|方法|資訊)",
    ),
    "Japanese": _Words(
        "(?:大変|誠に)?(?:申し訳(?:ありません|ございません|ない)|申し訳)|すみません|ごめんなさい|残念ながら|恐れ入りますが",
        "(?:私は)?(?:AI|人工知能|大規模言語モデル|言語モデル)[^。]{0,12}(?:として|なので|ですので|であるため)",
        "(?:でき|出来|答えられ|応えられ)(?:ません|かねます|ない)|(?:いたし|致し|応じ|答えし|応えし)かねます|お断り|控え",
        "(?:その|この|そのような|このような|ご)(?:種の)?(?:ご)?(?:依頼|質問|内容|要望|要求|リクエスト|指示|話題)"
        "|(?:それ|これ)(?:に|について|を)[^。]*(?:お手伝い|お答え|対応)|(?<=[、,])お手伝い"
        "|(?:情報|方法|手順|助言|アドバイス)(?:の|を)(?:ご)?(?:提供|お伝え|お教え|教え)",
    ),
}  # fmt: skip
_IN_SENTENCE = "[^.!?。！？]*?"
_BUT = r"\b(?:aber|jedoch|mais|cependant|pero|sin embargo)\b|但|不过|ませんが|しかし"
_OTHER_REFUSALS = [
    re.compile(
        rf"(?:(?:{words.sorry})\W*|(?=(?:{words.as_an_ai}|{words.cannot}|{words.request})))"
        rf"(?={_IN_SENTENCE}(?:{words.cannot}))"
        rf"(?:(?={_IN_SENTENCE}(?:{words.request}))"
        rf"|(?!.*(?:{_BUT})){_IN_SENTENCE}(?:{words.as_an_ai})[^.!?。！？]*[.!?。！？]?$)",
        re.IGNORECASE,
    )
    for words in _OTHERS.values()
]

# What asks for a text that declines: a way of writing, and the verb.
_WRITING = re.compile(
    r"e-?mail|letter|message|polite|sentence|brief|höflich|nachricht|satz\b|courriel|lettre|phrase|poli\b|polie|poliment"
    r"|carta|correo|cort[eé]s|frase|mensaje|信(?!息)|句|委婉|礼貌|邮件|メール|丁寧|手紙|文",
    re.IGNORECASE,
)
_DECLINING = re.compile(
    r"\b(?:declin|refus|reject|turn(?:ing|s)? (?:\w+ ){0,3}down|ablehn|absag|abzulehn|abzusag|déclin"
    r"|recha[cz]|rehus)"
    r"|lehn\w* [^.\n]{0,80}\bab\b|拒绝|拒絕|谢绝|婉拒|断る|断り|お断り|拒否",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[\n:：\"“”„«»「」『』]|(?<!\w)'|(?<=[.!?。！？])\s*")


def is_placeholder(text: str) -> bool:
    """Whether a whole text stands in for one that is still to be written: "...", "<your answer here>"."""
    text = text.strip(_AROUND)
    if len(text) > _LONGEST_HINT:
        return False
    if text in _STAND_INS or _ELLIPSIS.fullmatch(text) or _AS_ABOVE.fullmatch(text.strip("().。（）")):
        return True
    if _BRACKETED.fullmatch(text):  # {new_response} too
        inside = text[1:-1].strip().replace("_", " ")
        return any(hint.fullmatch(inside) for hint in (_HINT, _HINT_WITHOUT_SPACES, _HINT_HERE))
    return _HERE.search(text) is not None and any(
        hint.fullmatch(text) for hint in (_HINT, _HINT_WITHOUT_SPACES)
    )


def is_refusal(text: str, phrases: Iterable[str] = ()) -> bool:
    """Whether a short text begins as language models do when they decline a task, or with one of the phrases.

    "I'm sorry, but I can't assist with that" is one; a person who cannot come to a party writes none. Nor is
    it one in English where two further sentences or more are about the matter: they neither speak of the
    writer, of harm or of rules, nor ask for something else.
    """
    if len(text) > _LONGEST_REFUSAL or len(text.strip(_AROUND).encode(errors="replace")) > _LONGEST_REFUSAL:
        return False
    plain = _simplify(text)
    if any(plain.casefold().startswith(_simplify(phrase).casefold()) for phrase in phrases):
        return True
    if match := _REFUSAL.match(plain):
        further = _SENTENCE_END.split(plain[match.end() :])[1:]
        others = [sentence for sentence in further if sentence and not _DECLINING_ON.match(sentence)]
        return len(others) <= _OTHER_SENTENCES
    return any(refusal.match(plain) for refusal in _OTHER_REFUSALS)


def has_words(phrase: str) -> bool:
    """Whether there is anything in a phrase to know a text by."""
    return any(sign.isalnum() for sign in phrase)


def is_about_declining(text: str) -> bool:
    """Whether what is asked holds a refusal, or asks for a text that declines: one may then answer it."""
    if _DECLINING.search(text) and _WRITING.search(text):
        return True
    return any(is_refusal(part) for part in set(_PARTS.split(text)))


def _simplify(text: str) -> str:
    """A text without what is around it, with straight apostrophes and single spaces."""
    return " ".join(text.strip(_AROUND).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
