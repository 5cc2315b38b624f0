"""The page that `maskgolf report -o` writes: finished runs in pictures, tables and words."""
