"""Files: whole or not at all (`files`, `folders`), held while used (`held_files`), left when asked to (`stopping`)."""
