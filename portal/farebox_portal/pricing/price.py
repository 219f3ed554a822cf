"""The price models. Each is a frozen record with `parts(quantity)`, the quantity 0 or more."""

from farebox_portal.pricing.dynamic import Dynamic
from farebox_portal.pricing.flat import Flat
from farebox_portal.pricing.graduated import Graduated
from farebox_portal.pricing.package import Package
from farebox_portal.pricing.unit import Unit
from farebox_portal.pricing.volume import Volume

__all__ = ["Dynamic", "Flat", "Graduated", "Package", "Price", "Unit", "Volume"]

Price = Flat | Unit | Graduated | Volume | Package | Dynamic
