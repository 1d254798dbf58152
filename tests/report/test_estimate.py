from drpai_qat.report.estimate import estimate
from drpai_qat.report.layers import Layer


def test_the_bound_is_that_of_the_products():
    layers = [Layer("a", "Conv", "int8", 16_000_000), Layer("b", "Conv", "int16", 16_000_000)]
    found = estimate([*layers, Layer("c", "Gemm", "float32", 400), Layer("d", "Relu", "view")], "rzv2h")
    assert found is not None
    assert found.cycles == (1e6, 2e6, 100, 0)
    assert found.to_json()["least_ms_on_one_core"] == round(3_000_100 / 1.7e6, 3)
    assert found.to_json()["least_us_by_layer"][3] == 0


def test_there_is_none_for_other_machines_and_without_products():
    assert estimate([Layer("a", "Conv", "int8", 16)], "avx2") is None
    assert estimate([Layer("a", "Relu", "float32")], "rzv2h") is None
