"""What every test runs under: strict promotion, checked shapes, the CPU as eight devices."""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small programs that run once: compiling takes nearly all the time, and half of it without these optimisations.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
    # jaxlib 0.11 has no other emitters any more, and ends at a flag that it doesn't know.
    + " --xla_cpu_use_fusion_emitters=false"
    * version("jaxlib").startswith("0.10."),
)

import jax
import jaxtyping

jaxtyping.install_import_hook(["jaxopt_mini", "minigpt_flax"], "beartype.beartype")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
