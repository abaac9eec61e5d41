"""Networks in OpenVINO: converted, compared layer by layer, and run on the CPU."""

from thinet.artifacts.openvino.conversion import Lowers
from thinet.artifacts.openvino.deployed import Deployed
from thinet.artifacts.openvino.files import deploy, deployed, export_openvino
from thinet.artifacts.openvino.package import has_openvino

__all__ = ["Deployed", "Lowers", "deploy", "deployed", "export_openvino", "has_openvino"]
