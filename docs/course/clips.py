"""Exercise 14: batches of sound, from a folder of recordings to what a network takes."""

from hf_finetune import load_config
from hf_finetune.assembly import assemble
from hf_finetune.engines.batches import start_epoch

config = load_config("configs/spoken_digits_sample.yaml")
bench = assemble(config)
row = bench.data.splits["train"][0]
print("row:", row["id"], "label", row["label"], "speaker", row["speaker"])
loader = bench.make_loader("train", training=True)
start_epoch(loader, 0)
for name, values in next(iter(loader)).items():
    print(f"batch: {name} {tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}")
