"""The lesson's furniture: marks for exercises, figures shown with their text, help in cells."""

from sae_lib.lesson import checks, figures
from sae_lib.lesson.notebook import explain_missing_names, use
from sae_lib.lesson.settings import check_settings

__all__ = ["check_settings", "checks", "explain_missing_names", "figures", "use"]
