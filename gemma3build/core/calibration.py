"""Texts that show a checkpoint at work, so that rounding can spare the inputs that carry most.

They are of many kinds, because an input that one kind leaves silent may be loud in another, and none of
them is among the texts of the gate or of a published benchmark.
"""

TEXTS = (
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
