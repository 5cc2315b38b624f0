"""What a person sees: tables, figures, progress, text as it is drawn."""
