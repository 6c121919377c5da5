"""Every scheme on each device that is here: codes as on the CPU, layers within the same bound."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.scheme_names import schemes
from fusequant.kernels.registry import NoBackend

CUDA = (pytest.param("cuda", marks=pytest.mark.gpu),) if torch.cuda.is_available() else ()
DEVICES = ("cpu", *CUDA)
SCHEMES = {name: scheme for name, scheme in schemes().items() if scheme.format_id}
N, K, BOUND = 512, 1024, 0.03
BOUNDS = {"w4a4_convrot": 0.2}  # activations in 4 bits where the device takes them
# where two devices sum or divide in another order, a code may be the neighboring one
FLIPS = 1e-3

every = pytest.mark.parametrize("name", SCHEMES)
everywhere = pytest.mark.parametrize("device", DEVICES)


def weight(dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """One row in a hundred is loud, as in trained layers."""
    values = torch.randn(N, K, generator=torch.Generator().manual_seed(3))
    values[::100] *= 6.0
    return values.to(dtype)


@everywhere
@every
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
def test_a_device_stores_what_the_cpu_stores(name: str, device: str, dtype: torch.dtype) -> None:
    scheme, source = SCHEMES[name], weight(dtype)
    wanted = scheme.quantize(source)
    found = scheme.quantize(source.to(device))
    assert {role: (t.dtype, t.shape) for role, t in found.items()} == {
        role: (t.dtype, t.shape) for role, t in wanted.items()
    }
    assert all(tensor.device.type == device for tensor in found.values())
    torch.testing.assert_close(found["scale"].cpu(), wanted["scale"], rtol=1e-5, atol=0)
    codes = [t["weight"].cpu().view(torch.uint8) for t in (found, wanted)]
    assert float((codes[0] != codes[1]).float().mean()) <= FLIPS


@everywhere
@every
def test_a_device_reads_what_the_cpu_reads(name: str, device: str) -> None:
    scheme = SCHEMES[name]
    stored, settings = scheme.quantize(weight()), scheme.config(N, K)
    wanted = scheme.dequantize(stored, settings)
    there = {role: tensor.to(device) for role, tensor in stored.items()}
    found = scheme.dequantize(there, settings)
    assert found.device.type == device and found.dtype == torch.float32
    assert (found.cpu() - wanted).norm() <= 1e-6 * wanted.norm()


@everywhere
@every
@pytest.mark.parametrize("rows", (1, 17, 300))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_a_layer_is_x_times_the_dequantized_weight(
    name: str, device: str, rows: int, dtype: torch.dtype
) -> None:
    """On the backend that the registry picks for this device."""
    scheme = SCHEMES[name]
    stored, settings = scheme.quantize(weight(dtype)), scheme.config(N, K)
    x = torch.randn(rows, K, generator=torch.Generator().manual_seed(5)).to(dtype)
    bias = torch.randn(N, generator=torch.Generator().manual_seed(6)).to(dtype)
    want = x.double() @ scheme.dequantize(stored, settings).double().T + bias.double()
    there = {role: tensor.to(device) for role, tensor in stored.items()}
    try:
        got = scheme.linear(x.to(device), there, settings, bias.to(device))
    except NoBackend as refused:
        pytest.fail(f"no backend multiplies {name} on {device}: {refused}")
    assert (got.device.type, got.dtype, got.shape) == (device, dtype, want.shape)
    assert (got.double().cpu() - want).norm() <= BOUNDS.get(name, BOUND) * want.norm()
