"""The hand-written engine: what Trainer does, on one page that you can read from top to bottom.

It works under accelerate, so that the same lines run on a CPU, a GPU or several. Everything that
isn't the loop itself is shared with the other engine: batches, loss (`engines.step`), optimiser and
schedule (`engines.optimization`), and what happens after a step (`engines.progress`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice

from accelerate.data_loader import skip_first_batches

from hf_finetune.engines.batches import start_epoch
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.optimization import learning_rates
from hf_finetune.engines.progress import Progress
from hf_finetune.engines.step import Batch, TrainingStep


def fit(job: TrainingJob) -> Progress:
    """Trains the job's model; see `engines.step` for what a step is.

    Raises:
        TrainingError: The loss stops being a number, or the checkpoint doesn't fit.
    """
    accelerator = job.compute.make_accelerator(job.may_skip_parameters)
    progress = Progress(job, accelerator)
    steps_taken = progress.start()  # 0, or where the checkpoint stood

    # accelerate moves everything to the device, runs the forward pass at the chosen precision,
    # and averages gradients where several processes train together.
    model, optimizer, loader = accelerator.prepare(job.model, job.optimizer, job.train_loader)
    schedule, step = job.schedule, TrainingStep(job.loss, accelerator)
    accumulation = job.train.gradient_accumulation_steps
    max_norm = job.train.max_grad_norm or float("inf")  # 0 means: measure the norm, don't clip

    epoch, steps_into_epoch = divmod(steps_taken, job.length.steps_per_epoch)
    progress.restore_random_state()
    while not progress.should_stop:
        start_epoch(job.train_loader, epoch)  # a new order, and new augmentation
        model.train()  # dropout on, batch norm learns; an evaluation leaves it as it was
        batches_of_epoch = loader
        if steps_into_epoch:  # a resume in mid-epoch: what was trained on is not seen again
            batches_of_epoch = skip_first_batches(loader, steps_into_epoch * accumulation)
        for batches in group(batches_of_epoch, accumulation):
            step.begin(batches)
            for number, batch in enumerate(batches, start=1):
                is_last = number == len(batches)
                # Processes exchange gradients once a step: with the last micro-batch.
                with nullcontext() if is_last else accelerator.no_sync(model):
                    loss = step.micro_batch_loss(model, batch)  # forward
                    accelerator.backward(loss)  # gradients add up in parameter.grad
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
            rates = learning_rates(optimizer)
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:  # fp16 skips a step that overflowed
                schedule.step()
            optimizer.zero_grad()
            progress.step_end(*step.end(), grad_norm, rates)
            if progress.should_stop:
                break
        progress.epoch_end()  # evaluate, choose the best, write a checkpoint
        epoch, steps_into_epoch = epoch + 1, 0
    progress.finish()
    return progress


def group(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last list of an epoch may be shorter."""
    iterator = iter(batches)
    while chunk := list(islice(iterator, size)):
        yield chunk
