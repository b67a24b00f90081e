"""pretrain → finetune → evaluate → iterate: stages, rounds, and the verdict on them."""
