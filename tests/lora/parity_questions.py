"""Questions in four languages, written for the tests, as rows of the four published data sets' own schemas."""

from __future__ import annotations

from typing import Any

#: Language → (question, five options, index of the right one). Blanks and bracketed bits are there to be cleaned.
SCIENCE: dict[str, list[tuple[str, list[str], int]]] = {
    "ar": [
        (
            "ترك سامي قطعة ثلج على الطاولة في يوم حار. ماذا يحدث لها بعد ساعة؟",
            ["تصبح ماءً", "تكبر كثيرًا", "تصير حجرًا صلبًا", "تطير في الهواء", "تبقى كما هي"],
            0,
        ),
        ("أي  جزء من النبات يمتص الماء من التربة؟", ["الزهرة", "الورقة", "الجذر", "الثمرة", "الساق الخضراء"], 2),
        (
            " لماذا نرى البرق قبل أن نسمع الرعد؟ [ملاحظة]",
            ["لأن الرعد بعيد جدًا", "لأن الضوء أسرع من الصوت", "لأن العين أكبر", "بسبب الغيوم", "بسبب المطر الغزير"],
            1,
        ),
        ("كم ساقًا للعنكبوت؟", ["أربع", "ست", "عشر", "ثماني أرجل", "اثنتا عشرة"], 3),
    ],
    "bn": [
        (
            "রোদে ভেজা কাপড় শুকিয়ে যায়। এই ঘটনাটির কারণ কী?",
            ["জল বাষ্প হয়ে উড়ে যায়", "কাপড় জল খেয়ে ফেলে", "জল বরফ হয়", "রং বদলায়", "কাপড় ভারী হয়"],
            0,
        ),
        ("কোন প্রাণী ডিম পাড়ে?", ["গরু", "বিড়াল", "হাঁস", "ঘোড়া", "বড়  হাতি"], 2),
        (
            "চুম্বক  কোন জিনিসটিকে টানবে? [ছবি দেখো]",
            ["কাঠের চামচ", "লোহার পেরেক", "কাচের গ্লাস", "কাগজ", "রাবারের বল"],
            1,
        ),
        (
            "রাতে আকাশে চাঁদ আলো দেয় কীভাবে?",
            ["নিজে জ্বলে", "আগুন দিয়ে", "মেঘের আলোয়", "সূর্যের আলো ফিরিয়ে দিয়ে", "বিদ্যুৎ দিয়ে"],
            3,
        ),
    ],
    "en": [
        (
            "A metal spoon and a wooden spoon stand in the same pot of hot soup. Which handle gets warm first?",
            ["the metal one", "the wooden one", "neither of them", "both at once", "[sic] the  longer one"],
            0,
        ),
        ("Which of these  is a source of light?", ["a mirror", "the moon", "a burning candle", "a window", "snow"], 2),
        (
            "Rosa waters one of two plants and keeps both in the dark. What does she find out? [picture]",
            ["how fast snails crawl", "what water does without light", "how tall trees get", "nothing", "the date"],
            1,
        ),
        ("What do lungs take up?", ["salt", "sugar", "iron", "oxygen from the air", "light"], 3),
    ],
    "zh": [
        ("把一杯盐水放在太阳下晒几天，杯底会留下什么？", ["盐", "糖", "沙子", "油", "什么也没有"], 0),
        ("下列哪一种动物在水里用鳃呼吸？ [提示]", ["鲸鱼", "青蛙妈妈", "金鱼", "海豹", "鸭子"], 2),
        (
            "为什么冬天呼出的气是白色的？",
            ["因为空气变脏了", "水蒸气遇冷变成小水滴", "因为嘴里有雪", "因为风大", "天黑得早"],
            1,
        ),
        ("影子  什么时候最短？", ["早晨", "傍晚", "半夜", "中午太阳最高的时候", "下雨时"], 3),
    ],
}

#: Language → (activity, first half of the context, its second half, four endings, index of the right one).
SCENES: dict[str, list[tuple[str, str, str, list[str], int]]] = {
    "ar": [
        (
            "تحضير الشاي",
            "تغلي امرأة الماء في إبريق صغير.  ثم تفتح علبة الشاي.",
            "بعد ذلك هي",
            [
                "تضع ملعقتين في الإبريق وتنتظر.",
                "تركب الدراجة إلى المدرسة.",
                "ترسم  على الجدار.",
                "تغسل السيارة بالشاي.",
            ],
            0,
        ),
        (
            "الرسم",
            "يجلس ولد أمام ورقة بيضاء. [header] كيف ترسم قطة [title] ابدأ بدائرة.",
            "",
            ["[substeps] ينام تحت الطاولة.", "يرسم أذنين صغيرتين فوق الدائرة.", "يأكل القلم.", "يطوي الباب."],
            1,
        ),
        (
            "كرة القدم",
            "يقف الحارس أمام المرمى.",
            "اللاعب يركض نحو الكرة و",
            ["يقرأ الجريدة.", "يبيع التذاكر للجمهور كله ثم يعود إلى بيته.", "يركلها.", "يزرع شجرة."],
            2,
        ),
    ],
    "bn": [
        (
            "রান্না করা",
            "একজন লোক পেঁয়াজ কাটছে।  কড়াইতে তেল গরম হচ্ছে।",
            "তারপর সে",
            ["পেঁয়াজ তেলে ছেড়ে দেয়।", "কড়াই মাথায় পরে।", "ছুরি দিয়ে গান লেখে।", "ঘুমিয়ে পড়ে।"],
            0,
        ),
        (
            "সাইকেল সারানো",
            "চাকায় হাওয়া নেই। [header] টিউব খোলা [title] আগে চাকা খুলে নাও।",
            "",
            ["জুতো পালিশ করো।", "[step] ফুটো খুঁজে  তালি লাগাও।", "নদীতে সাঁতার কাটো।", "আকাশ দেখো।"],
            1,
        ),
        (
            "ছবি তোলা",
            "মেয়েটি ক্যামেরা হাতে নেয়।",
            "সবাই হাসে আর সে",
            ["ক্যামেরা খায়।", "দৌড়ে পালায়।", "মাটি খোঁড়ে।", "বোতাম টিপে ছবিটা তোলে।"],
            3,
        ),
    ],
    "en": [
        (
            "Washing a dog",
            "A girl fills a tub in the yard.  A wet dog stands beside it.",
            "the girl THEN",
            ["lifts the dog into the tub.", "paints  the fence with soap.", "reads a map to it.", "locks the moon."],
            0,
        ),
        (
            "Home and Garden",
            "[header] How to plant a bulb [title] Dig a hole twice as deep as the bulb.",
            "",
            [
                "[substeps] Sing into it.",
                "[step] Set the bulb in with its tip up [title] Cover it.",
                "Go home.",
                "Sell it.",
            ],
            1,
        ),
        (
            "Playing chess",
            "Two old men sit at a stone table in the park.",
            "one of them",
            [
                "eats the board and both of the clocks.",
                "swims away.",
                "moves a pawn.",
                "is a very tall kind of tree with red leaves.",
            ],
            2,
        ),
    ],
    "zh": [
        (
            "包饺子",
            "桌上放着面皮和馅儿。  奶奶拿起一张面皮。",
            "她",
            ["把馅儿放在中间，捏紧边。", "把面皮贴在窗户上。", "用筷子弹琴。", "出门买船票。"],
            0,
        ),
        (
            "打扫房间",
            "[header] 怎样擦窗户 [title] 先准备一盆温水。",
            "",
            ["[substeps] 把水喝掉。", "用湿布从上往下擦  玻璃。", "关灯睡觉。", "给窗户写信。"],
            1,
        ),
        (
            "跑步比赛",
            "运动员站在起跑线上。",
            "枪声一响，",
            ["他们坐下吃饭。", "观众都回家了。", "天上下起鱼来。", "所有人一起向前冲去。"],
            3,
        ),
    ],
}

#: Language → (question, answers), the right answer first.
BELIEFS: dict[str, list[tuple[str, list[str]]]] = {
    "ar": [
        ("هل يجلب كسر المرآة  الحظ السيئ؟", ["لا، لا علاقة له بالحظ", "نعم، سبع سنين", "نعم إذا كانت كبيرة"]),
        ("ماذا يحدث إذا ابتلعت بذرة بطيخ؟", ["تمر في جسمك", "تنمو بطيخة في بطنك", "تموت فورًا", "يتغير لون شعرك"]),
    ],
    "bn": [
        ("কালো বিড়াল রাস্তা পার হলে কী হয়?", ["বিশেষ কিছুই হয় না", "অমঙ্গল হয়"]),
        ("রাতে নখ কাটলে কি  বিপদ আসে? [লোককথা]", ["না, আসে না", "হ্যাঁ, অবশ্যই", "হ্যাঁ, শুধু শনিবারে"]),
    ],
    "en": [
        (" Do goldfish forget everything after three seconds?", ["No, they remember for months", "Yes, they do"]),
        (
            "What happens if you walk under a ladder? [superstition]",
            [
                "Nothing, unless something falls on you",
                "You have bad luck",
                "You shrink",
                "You will never marry",
                "Rain",
            ],
        ),
        ("Can you see a wall from the moon?", ["No", "Yes, the longest one", "Yes, all of them, on a clear night"]),
    ],
    "zh": [
        ("打雷时躲在大树下安全吗？", ["不安全，可能被雷击中", "安全，树会保护你", "只要树够高就安全"]),
        ("手指按得咔咔响会得关节炎吗？", ["没有证据说明会", "会", "第二天就会", "只有左手会"]),
    ],
}

#: Language → (premise, what is asked for, two options, index of the right one). Some begin small, or with no letter.
CAUSES: dict[str, list[tuple[str, str, str, str, int]]] = {
    "et": [
        ("Poiss jäi bussist maha.", "cause", "Ta magas liiga kaua.", "Ta ostis uue mütsi.", 0),
        ("Jõgi jäätus.", "effect", "Kalad lendasid minema.", "Lapsed läksid uisutama.", 1),
        ("Ülemus kiitis töölisi.", "cause", "Õhtu oli pime ja väga pikk.", "Üks töö sai valmis.", 1),
    ],
    "tr": [
        ("Çocuk otobüsü kaçırdı.", "cause", "İstasyona geç geldi.", "Ilık bir çorba içti.", 0),
        ("Nehir dondu.", "effect", "Öğretmen gemiyle geldi.", "çocuklar kaymaya gitti.", 1),
        ("Isıtıcı bozuldu.", "effect", "Ev soğudu.", "3 kedi doğdu ve hepsi çok uzun yaşadı.", 0),
    ],
    "zh": [
        ("男孩错过了公共汽车。", "cause", "他睡过头了。", "他买了一顶新帽子。", 0),
        ("河水结冰了。", "effect", "鱼都飞走了，再也没有回来。", "孩子们去滑冰。", 1),
        ("老师生气了。", "cause", "窗外有一只鸟。", "学生一直在说话。", 1),
    ],
}


def m_arc(options: int) -> list[dict[str, Any]]:
    """Rows of m_arc with that many options, the fifth column empty where there are four."""
    return [
        {"id": f"{language}-{number}", "instruction": question, "answer": "ABCDE"[answer]}
        | {f"option_{letter}": text for letter, text in zip("abcde", [*texts[:options], ""], strict=False)}
        for language, questions in SCIENCE.items()
        for number, (question, texts, answer) in enumerate(questions)
    ]


def global_mmlu() -> list[dict[str, Any]]:
    """Rows of Global-MMLU-Lite."""
    return [
        {"sample_id": f"{language}/{number}", "question": f" {question}\n", "answer": "ABCD"[answer]}
        | {f"option_{letter}": text for letter, text in zip("abcd", texts, strict=False)}
        for language, questions in SCIENCE.items()
        for number, (question, texts, answer) in enumerate(questions)
    ]


def m_hellaswag() -> list[dict[str, Any]]:
    """Rows of m_hellaswag."""
    return [
        {"id": f"{language}-{number}", "ctx_a": first, "ctx_b": second, "activity_label": activity}
        | {"endings": endings, "label": str(label)}
        for language, scenes in SCENES.items()
        for number, (activity, first, second, endings, label) in enumerate(scenes)
    ]


def m_truthfulqa() -> list[dict[str, Any]]:
    """Rows of m_truthfulqa; the columns of mc2 are there because the harness reads them."""
    return [
        {"question": question}
        | {f"{kind}_targets_choices": answers for kind in ("mc1", "mc2")}
        | {f"{kind}_targets_labels": [1] + [0] * (len(answers) - 1) for kind in ("mc1", "mc2")}
        for beliefs in BELIEFS.values()
        for question, answers in beliefs
    ]


def xcopa(language: str) -> list[dict[str, Any]]:
    """Rows of XCOPA in one language."""
    return [
        {"premise": premise, "question": asked, "choice1": first, "choice2": second, "label": label, "idx": number}
        for number, (premise, asked, first, second, label) in enumerate(CAUSES[language])
    ]
