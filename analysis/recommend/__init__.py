"""Which adapter of a base to take, or which source to train next, for some targets without harm to others.

>>> found = recommend_recorded(StudyStore(client, "paper"), model="Qwen/Qwen2.5-0.5B", want=["arc_challenge/bn"])
>>> print(found.text())
"""
