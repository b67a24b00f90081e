"""What a training will need, before it runs: parameters, arithmetic, memory, time, and which settings change them."""
