"""The fixed texts that every artifact is compared with its checkpoint on.

They are in several languages and scripts, code, and numbers, and two are longer than Gemma 3's sliding
window of 512 tokens, where a wrong window shows. Nothing here is from a published benchmark.
"""

from dataclasses import dataclass

# The tokens and the template of the converter's Gemma 3 page.
START_TOKEN = "<bos>"  # noqa: S105 - not a password
STOP_TOKENS = ("<eos>", "<end_of_turn>")
USER_PREFIX = "<start_of_turn>user\n"
MODEL_PREFIX = "<start_of_turn>model\n"
TURN_SUFFIX = "<end_of_turn>\n"
PROMPT_PREFIX = USER_PREFIX
PROMPT_SUFFIX = f"{TURN_SUFFIX}{MODEL_PREFIX}"

SCORED = 16  # last tokens of a prompt whose next-token distributions are compared
LONGEST = 704  # tokens: past the sliding window, and no longer than it takes to see that
NEW_TOKENS = 24  # that a sample continues for

FABLE = """The keeper of the lighthouse kept a notebook. On its first page she had written: the word \
that opens the iron door is heron. Every evening she climbed the hundred and twelve steps, wiped the \
salt from the glass, and lit the lamp. The ships passed far out, and she counted them by their lights. \
In spring the storms came from the west and threw stones at the door. She mended the hinges with wire. \
In summer the fishermen brought her bread, onions, coffee and the news, which was mostly about prices. \
She gave them letters to post, and they never asked to whom. In autumn the birds rested on the rail, \
thousands of them, so that the beam turned grey when it swept over their backs. She wrote down their \
kinds and their numbers, the hour of their coming, and the direction of the wind. In winter there was \
nobody. She read the old books again, repaired her boots, and taught herself to play the small organ \
that a captain had left there instead of a payment. One night the lamp went out. She searched for the \
spare wick in the cellar, but the cellar was locked with an iron door, and the word for it was in the \
notebook, and the notebook lay in a drawer whose key she had lost. She sat on the stairs and thought. \
A ship was coming. She could hear its engine, slow and heavy, and the bell at its bow. The water around \
the rocks was black. She took the mirror from her bedroom, carried it up to the gallery, and set it \
behind a bucket of burning oil. The light was yellow and small, but it was a light. The ship turned. In \
the morning its mate rowed over with a can of paraffin and a dozen lemons, and asked what had happened. \
She told him about the door. He laughed and said that his grandfather had built it, that he had been a \
man of few words, and that all of them were the names of birds. Together they went down. The mate held \
the lantern, and she put her hand on the cold metal. She had counted so many birds that she no longer \
knew which of them was the one. Was it the gull, the plover, the crane, the swan, the swallow? The mate \
shook his head at each of them. Then she remembered the page, the ink, and the pond behind her \
mother's house where it had stood on one leg every morning, patient and grey. The wicks were still \
there, in a tin box, with a letter on top of it that was addressed to nobody. Whoever you are, it said, \
do not hide the light from those who need it, and do not forget the word. She folded it, put it into \
her coat, and climbed the hundred and twelve steps again. From that day on she wrote on every page of \
the notebook, at its very end, the sentence with which it had begun: the word that opens the iron door \
is heron."""

SUMS = "".join(f"{number} + 7 = {number + 7}, " for number in range(11, 93))

TEXTS = {
    "english": "The first railways were built to carry coal from the mines to the rivers. Within "
    "fifty years they carried mail, cattle, soldiers and tourists, and clocks in distant towns "
    "had to be set to the same time.",
    "german": "Der Zug nach München fährt um halb neun vom anderen Gleis ab. Bitte beachten Sie, "
    "dass die hinteren Wagen in Augsburg abgehängt werden.",
    "french": "Pour faire une bonne soupe, il faut d'abord éplucher les légumes, puis les couper en "
    "petits morceaux et les laisser cuire à feu doux pendant une heure.",
    "spanish": "La biblioteca abre todos los días de nueve a ocho, excepto los domingos. Los libros "
    "se pueden devolver en el buzón que está junto a la entrada principal.",
    "russian": "Зимой дни становятся короче, и снег лежит на крышах до самой весны. Дети катаются "
    "на санках, а взрослые чистят дорожки.",
    "chinese": "春天来了，河边的柳树长出了新叶。孩子们在公园里放风筝，老人们坐在长椅上聊天。",
    "japanese": "駅の前の喫茶店は朝七時に開きます。コーヒーとトーストを食べながら、新聞を読む人が多いです。",
    "arabic": "يقع السوق القديم في وسط المدينة، ويبيع التجار فيه التوابل والأقمشة والفواكه الطازجة.",
    "hindi": "बारिश के बाद आसमान साफ हो गया और बच्चे खेलने के लिए मैदान में चले गए।",
    "python": "def mean(values: list[float]) -> float:\n"
    '    """Return the arithmetic mean of the values."""\n'
    "    if not values:\n"
    '        raise ValueError("there is no mean of nothing")\n'
    "    return sum(values) / len(values)\n",
    "c": "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n"
    '        printf("%d squared is %d\\n", i, i * i);\n    }\n    return 0;\n}\n',
    "numbers": "2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048. On 14 July 1789 it was a Tuesday; "
    "pi is 3.14159, and 17 times 3 is 51.",
    "long story": FABLE,
    "long sums": SUMS,
}

QUESTION = "question"  # the sample with turns
SAMPLES = {
    "fact": "Water boils at",
    "code": "def fibonacci(n):",
    "list": "The days of the week are Monday, Tuesday,",
    QUESTION: f"{PROMPT_PREFIX}What is the capital of France?{PROMPT_SUFFIX}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text as tokens.

    Attributes:
        name: of the text.
        tokens: its ids, ``<bos>`` first, cut to what fits.
        scored: how many of the distributions after its last tokens are compared; each has a next
            token in the text.
    """

    name: str
    tokens: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What a model says after a prompt, greedily.

    Attributes:
        name: of the prompt.
        prompt: its ids, ``<bos>`` first.
        tokens: new ids, without the stop token.
        stopped: whether a stop token ended it.
    """

    name: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the checkpoint itself says: ``reference.json``, beside the logits.

    Attributes:
        made_by: such as ``transformers 5.23.0, float32``.
        prompts: in the order of the rows of the logits.
        continuations: of the samples.
    """

    made_by: str
    prompts: tuple[Prompt, ...]
    continuations: tuple[Continuation, ...]


REFERENCE = "reference.json"
LOGITS = "logits.npy"


def sample_room(longest: int) -> tuple[int, int]:
    """Return how many tokens a sample's prompt may have, and how many it may continue for."""
    prompt = max(2, longest - NEW_TOKENS)
    return prompt, longest - prompt


def make_prompt(name: str, ids: list[int], bos: int, longest: int) -> Prompt:
    """Return a text's ids as a prompt of at most ``longest`` tokens, the last of them unscored."""
    tokens = (bos, *ids)[:longest]
    return Prompt(name=name, tokens=tokens, scored=min(SCORED, len(tokens) // 2))
