"""Any JAX function, computed by these rules: its program is rewritten, nothing is patched."""

from cnnvjp.rewriting._drop_in import conv_general_dilated
from cnnvjp.rewriting._explicit import Report, explicit
from cnnvjp.rewriting._implicit import implicit
from cnnvjp.rewriting._jaxprs import Finding

__all__ = ["Finding", "Report", "conv_general_dilated", "explicit", "implicit"]
