"""What other tools call the settings of this one; read where a configuration has an unknown key.

Names are those of Trainer's arguments, past and present, and of common training scripts.
"""

from __future__ import annotations

RENAMED = {
    # The run as a whole.
    "output_dir": "run.directory",
    "out_dir": "run.directory",
    "run_name": "name",
    "experiment_name": "name",
    "random_seed": "seed",
    "data_seed": "seed",
    "report_to": "trackers",
    "tracker": "trackers",
    "log_with": "trackers",
    "project_name": "tracking.comet.project",
    "comet_mode": "tracking.comet.mode",
    # Data and model.
    "dataset": "data",
    "dataset_name": "data.name",
    "data_dir": "data.root",
    "data_path": "data.root",
    "max_train_samples": "data.max_train_examples",
    "model_name": "model.name",
    "architecture": "model.name",
    # Augmentation.
    "hflip": "features.augmentation.horizontal_flip",
    "vflip": "features.augmentation.vertical_flip",
    "color_jitter": "its parts, such as features.augmentation.brightness_fraction",
    "random_erasing": "features.augmentation.erase_probability",
    "reprob": "features.augmentation.erase_probability",
    "mixup_switch_prob": "features.augmentation.cutmix_fraction",
    "auto_augment": "features.augmentation.policy: randaugment",
    "aa": "features.augmentation.policy: randaugment",
    # Length of training and batches.
    "epochs": "train.num_train_epochs",
    "num_epochs": "train.num_train_epochs",
    "max_epochs": "train.num_train_epochs",
    "batch_size": "train.per_device_train_batch_size",
    "train_batch_size": "train.per_device_train_batch_size",
    "per_gpu_train_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size",
    "per_gpu_eval_batch_size": "train.per_device_eval_batch_size",
    "accumulate_grad_batches": "train.gradient_accumulation_steps",
    "num_workers": "train.dataloader_num_workers",
    # Loss, optimiser and schedule.
    "criterion": "loss.name",
    "loss_fn": "loss.name",
    "label_smoothing_factor": "loss.label_smoothing",
    "lr": "train.learning_rate",
    "optim": "train.optimizer.name",
    "adam_beta1": "train.optimizer.betas: [beta1, beta2]",
    "adam_beta2": "train.optimizer.betas: [beta1, beta2]",
    "adam_epsilon": "train.optimizer.epsilon",
    "adafactor": "train.optimizer.name: adafactor",
    "lr_scheduler": "train.schedule.name",
    "lr_scheduler_type": "train.schedule.name",
    "lr_scheduler_kwargs": "its settings under train.schedule",
    "scheduler": "train.schedule",
    "warmup_proportion": "train.schedule.warmup_ratio",
    "num_warmup_steps": "train.schedule.warmup_steps",
    "clip_grad_norm": "train.max_grad_norm",
    "gradient_clip_val": "train.max_grad_norm",
    # Evaluation and checkpoints.
    "evaluation_strategy": "train.eval_strategy",
    "evaluate_during_training": "train.eval_strategy",
    "monitor": "train.metric_for_best_model",
    "patience": "train.early_stopping_patience",
    "save_strategy": "train.save_every_evaluations",
    "save_steps": "train.save_every_evaluations",
    "logging_strategy": "train.logging_steps",
    # What it runs on.
    "no_cuda": "compute.device: cpu",
    "use_cpu": "compute.device: cpu",
    "use_mps_device": "compute.device: mps",
    "bf16": "compute.precision: bf16",
    "fp16": "compute.precision: fp16",
    "mixed_precision": "compute.precision",
    "bf16_full_eval": "compute.precision: bf16",
    "fp16_full_eval": "compute.precision: fp16",
    "fp16_opt_level": "compute.precision: fp16",
    "half_precision_backend": "compute.precision",
    # The Hub.
    "push_to_hub": "hub.repo_id",
    "push_to_hub_model_id": "hub.repo_id",
    "hub_model_id": "hub.repo_id",
    "hub_private_repo": "hub.private",
    "hub_strategy": "hub.when",
    "hub_revision": "hub.revision",
}
"""Key elsewhere → what to write here."""

_ALWAYS = "That is always done here: leave it out."
_NEVER = "That is never done here: leave it out."
GONE = {
    "load_best_model_at_end": _ALWAYS,
    "save_safetensors": _ALWAYS,
    "ignore_data_skip": "A resumed run goes on exactly where it stopped: leave it out.",
    "resume_from_checkpoint": "Resuming is asked for when a run is started: leave it out.",
    "do_train": _ALWAYS,
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "overwrite_output_dir": "A run never overwrites another: leave it out.",
    "greater_is_better": "It follows from train.metric_for_best_model: leave it out.",
    "remove_unused_columns": "Columns are kept until the batch is made: leave it out.",
    "prediction_loss_only": _NEVER,
    "logging_dir": "A run's numbers go into its run directory (run.directory): leave it out.",
    "logging_nan_inf_filter": "A loss that isn't finite stops the run: leave it out.",
    "api_key": "A key never stands in a configuration: set COMET_API_KEY (or WANDB_API_KEY).",
    "auto_find_batch_size": "Give train.per_device_train_batch_size.",
    "hub_token": "Never write a token into a file. Log in with: hf auth login, or set HF_TOKEN.",
    "hub_always_push": "A push that is still going on is never waited for: leave it out.",
}
"""Key elsewhere → why there is none here, and what to do."""

_FAMILIES = {
    ("hub_", "push_to_hub"): "Write the section hub: {repo_id: OWNER/NAME}.",
    ("ddp_", "fsdp", "deepspeed", "local_rank", "parallelism_", "accelerator_", "sharded_ddp"): (
        "Processes are set up by the launcher, not by the configuration: leave it out."
    ),
}
_WITHOUT_COUNTERPART = """
    activation_checkpointing activation_checkpointing_kwargs average_tokens_across_devices
    batch_eval_metrics dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor debug
    disable_tqdm enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_use_gather_object full_determinism gradient_checkpointing
    gradient_checkpointing_kwargs group_by_length include_for_metrics
    include_inputs_for_metrics include_num_input_tokens_seen label_names length_column_name
    liger_kernel_config log_level log_level_replica log_on_each_node logging_first_step
    neftune_noise_alpha optim_args optim_target_modules past_index project
    restore_callback_states_from_checkpoint save_on_each_node
    save_only_model skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps tpu_num_cores trackio_bucket_id trackio_space_id
    trackio_static_space_id train_sampling_strategy use_cache use_liger_kernel
"""


def foreign_advice(key: str) -> str | None:
    """What to write for a key that another tool understands; None for an unheard-of one."""
    if key in RENAMED:
        return f"Write {RENAMED[key]}."
    if key in GONE:
        return GONE[key]
    for starts, advice in _FAMILIES.items():
        if key.startswith(starts):
            return advice
    if key in _WITHOUT_COUNTERPART.split():
        return "This argument of Trainer has no counterpart here: leave it out."
    return None
