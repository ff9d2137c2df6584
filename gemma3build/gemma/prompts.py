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


CALIBRATION_TEXTS = (
    (
        "To take a stuck lid off a jar, hold it under hot water for a minute and dry it. The metal grows more "
        "than the glass. If that is not enough, tap the edge of the lid on the table a few times, or slide "
        "the tip of a spoon under it until you hear the air rush in."
    ),
    (
        "Question: How can I keep bread fresh for longer?\nAnswer: Put it into a paper bag inside a tin, away "
        "from the window. A refrigerator makes it stale sooner. What you will not eat within three days is "
        "better sliced and frozen."
    ),
    (
        "A cheap shelf can be made of two bricks and a board. Sand the board first, and rub it with oil along "
        "the grain. For books, the board should be no longer than eighty centimetres, or it will bend in the "
        "middle."
    ),
    (
        "The council voted on Tuesday to close the old bridge to lorries. Engineers had found cracks in two of "
        "its four piers. Repairs are expected to take until October and to cost about 2.4 million. Buses will "
        "be led over the northern ring road, which adds twelve minutes to the journey."
    ),
    (
        "Photosynthesis turns light into chemical energy. In the leaves of a plant, chlorophyll absorbs red and "
        "blue light, water is split, and oxygen is set free. The energy is stored in sugars that are built "
        "from carbon dioxide. Without it there would be neither food nor air to breathe."
    ),
    (
        '"Have you seen my keys?" she asked.\n"They were on the kitchen table this morning," he said without '
        'looking up.\n"They are not there now."\n"Then look in the coat that you wore yesterday."\nShe did, and '
        "found the keys, a ticket, and a sandwich."
    ),
    (
        "<start_of_turn>user\nGive me three ideas for a rainy afternoon with two children.<end_of_turn>\n"
        "<start_of_turn>model\n1. Build a den from blankets and chairs.\n2. Bake flat bread in a pan; they can "
        "knead the dough.\n3. Draw a map of the flat and hide a treasure in it.<end_of_turn>\n"
    ),
    (
        "import csv\nfrom collections import Counter\n\ndef count_by(path, column):\n    with open(path, newline='') "
        "as file:\n        return Counter(row[column] for row in csv.DictReader(file))\n\nfor name, number in "
        "count_by('visits.csv', 'country').most_common(5):\n    print(f'{name:20} {number:6d}')\n"
    ),
    (
        "SELECT city, AVG(price) AS mean_price\nFROM rooms\nWHERE beds >= 2 AND free_from < '2024-06-01'\nGROUP BY "
        "city\nHAVING COUNT(*) > 10\nORDER BY mean_price DESC;\n"
    ),
    (
        "<h2>Opening hours</h2>\n<ul>\n  <li>Monday to Friday: 8:30 to 18:00</li>\n  <li>Saturday: 9:00 to 13:00</li>"
        '\n</ul>\n<p>We are closed on <a href="#holidays">public holidays</a>.</p>\n'
    ),
    (
        "If a train covers 180 km in 1.5 hours, its speed is 180 / 1.5 = 120 km/h. At the same speed it needs 240 / "
        "120 = 2 hours for 240 km. The sum of the first 100 numbers is 100 * 101 / 2 = 5050. A third of 51 is 17."
    ),
    (
        "| month | rain in mm | days with sun |\n|---|---|---|\n| March | 61 | 11 |\n| April | 48 | 14 |\n| May | 70 | 16 "
        "|\n| June | 83 | 15 |\n"
    ),
    (
        "Um eine Schraube aus altem Holz zu lösen, gibt man einen Tropfen Öl auf den Kopf und wartet eine Stunde. Dann "
        "setzt man den passenden Schraubendreher an und dreht zuerst ein wenig fester, bevor man löst."
    ),
    (
        "Le marché a lieu tous les samedis sur la place de la mairie. On y trouve du fromage, des légumes de saison et, "
        "au printemps, des plants de tomates que les jardiniers du village ont préparés."
    ),
    (
        "Para regar las plantas durante las vacaciones basta una botella con un agujero pequeño en el tapón. Se clava boca "
        "abajo en la tierra húmeda y el agua sale poco a poco."
    ),
    (
        "Per preparare il caffè con la moka si riempie la base d'acqua fino alla valvola, si mette il caffè senza premerlo "
        "e si lascia sul fuoco basso finché non comincia a gorgogliare."
    ),
    (
        "Чтобы яблоки дольше хранились, их заворачивают в бумагу и складывают в ящик так, чтобы они не касались друг друга. "
        "В погребе они лежат до марта."
    ),
    "洗羊毛衫时要用冷水，轻轻按压，不要拧。洗完以后平铺在毛巾上晾干，这样衣服不会变形。",
    "雨の日は、濡れた傘を玄関に広げておくと早く乾きます。靴の中には新聞紙を入れておくとよいでしょう。",
    "لتنظيف النوافذ من دون خطوط، امزج الماء بقليل من الخل وامسح الزجاج بقطعة قماش من القطن.",
    "चावल पकाने से पहले उसे आधा घंटा पानी में भिगो दें, इससे दाने अलग-अलग रहते हैं।",
)
