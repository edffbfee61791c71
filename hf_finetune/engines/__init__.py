"""The engines room: how a model is trained; two kinds that share everything but the loop.

Contract of a kind (`hf_finetune/engines/<name>.py`): `fit(job) -> None`; see `engines.step`.
"""
