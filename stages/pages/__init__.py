"""Parts of the pages that all stages share: templates, charts, numbers."""
