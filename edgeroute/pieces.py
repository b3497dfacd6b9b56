"""Words and fragments that the benchmark's prompts are made of, by kind and by BERT's count of tokens."""

from __future__ import annotations

PIECES: dict[str, dict[int, str]] = {
    "chat": {
        1: (
            "the of and to in is that it for on are as with this be from or one had by what all were we when your "
            "can there use an each which how their if will up other about out many then them these so some would "
            "make like into time has look two more write see number no way could people than first water been "
            "call who find long down day did get come made may part please explain why does difference between "
            "give me short list ideas best plan trip weekend story dragon lonely following article describe "
            "history empire main causes war compare advantages city country should visit summer recipe chicken "
            "rice garlic healthy dinner family birthday friend letter manager asking extra holiday paragraph "
            "formal polite improve grammar translate sentence meaning word example simple terms child understand "
            "physics energy light planet moon gravity theory mathematics equation solve problem step reasoning "
            "answer question correct wrong likely probability average price market company business strategy "
            "customer product marketing email subject meeting report project team software computer program "
            "function data table column database server network security password machine learning model language "
            "training neural artificial intelligence future society government policy law tax health doctor "
            "medicine symptoms treatment exercise diet sleep music song lyrics poem love rain sea mountain forest "
            "animal dog cat bird fish horse character novel movie director scene dialogue philosophy ethics "
            "religion culture art design color style fashion interior garden plant soil however although because "
            "therefore usually sometimes together without against during before after under over again also very "
            "really quite rather perhaps certainly important different possible available necessary international "
            "information education development environment experience management organization particularly "
            "approximately responsibility screenplay smartphone entrepreneurship sustainability"
        ),
        2: "rewrite brainstorm chatbot onboarding backpacking",
        3: "summarize photosynthesis hyperparameter refactor gluten sourdough itinerary",
        4: "misconceptions counterargument",
        5: "cryptocurrency thermodynamics",
    },
    "code": {
        1: (
            "def return import class self print for while if else try except None True False lambda yield let var "
            "function await public static void int string float double new null this include vector map filter "
            "reduce length index value key result total count items node left right root head next queue stack "
            "graph x i n = + - * / < > ( ) [ ] { } : ; , . 1 comment # SELECT FROM WHERE JOIN GROUP ORDER assert "
            "raise commit build install line fix bug test"
        ),
        2: "elif const boolean std append == != 0; += // todo git docker npm error: traceback",
        3: "async struct &mut index.html <p>",
        4: "sum(values) len(nodes) foo(bar) list[int] dict() O(n) main.py useState()",
        5: "range(10): </div>",
        6: 'get_user(name) self.items[i] if(n<2) data["id"] print("ok") console.log(x) std::cout push_back(v)',
        8: 'ValueError("bad")',
        10: 'df.groupby("day") http://localhost:8080',
    },
    "choice": {
        1: (
            "which of the following is not correct best describes a b c d answer all none true false statement "
            "option most likely choose only because energy cell nation price force demand supply treaty acid base "
            "plant wave court value system process increase decrease constant heat pressure population tax "
            "voltage enzyme river empire mineral theory"
        ),
    },
    "numbers": {
        1: (
            "1 2 3 4 5 6 7 8 9 10 12 15 16 20 24 25 30 36 40 48 50 60 64 75 80 90 99 100 120 144 250 365 500 999 "
            "1000 1999 + - * / = % ( ) x y is how many what of and each per total cost km kg hours days apples "
            "solve sum"
        ),
        2: "1024 2024 $40 20%",
        3: "3.5 0.25 1,250 17.99 12:30 7/8",
    },
    "accents": {
        1: (
            "qué cómo más día por para los una con niño où très français une les des für über ich das história "
            "são é como"
        ),
        2: (
            "está años información según aquí été être créer idées leçon écris avec schön straße müssen nicht wie "
            "não você ação fazer perché città più così řeka"
        ),
        3: "también explica escribe pourquoi können größe erklären escreva život język",
        4: "ejemplo kôpavogur dlaczego",
    },
    "script": {
        1: "中 国 人 是 的 写 一 个 故 事 请 用 解 释 什 么 日 本 語 東 京 歴 史 は の を に か 教 है में",
        2: "えて 해 ما هو في من कैसे מה זה",
        3: "как что это для 안 녕 كيف قصة على क्या",
        4: "слово ください اكتب γιατί",
        5: "время город לכתוב είναι",
        6: "почему напиши пример человек история вопрос 하세요 설명 주세요",
        7: "объясни",
        9: "программа",
    },
}
"""Of each kind: token count to pieces of that many tokens, set apart by spaces."""
