"""Which adapter of a base to take, or which source to train next, for some targets without harm to others.

>>> frame = load(client, "paper", cache=cache_root())
>>> outcomes = study_outcomes(stored_outcomes(client, frame, cache=cache_root()))
>>> found = recommend(frame, outcomes, model="Qwen/Qwen2.5-0.5B", want=[Cell("arc_challenge", "bn")])
>>> print(found.text())
"""
