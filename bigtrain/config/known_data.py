"""Well-known data sets and kinds of files → the overrides that train on them. Tables only."""

from __future__ import annotations

_CORPUS = "data=text_corpus data.path=<file or folder>"
_TABLE = (
    "task=classification data=text_classification data.path=<file.csv> data.text_column=<name> data.label_column=<name>"
)
_IMAGES = "model=cnn data=image_folder data.path=<folder with a folder per class>"
_PAIRS = "model=seq2seq data=sentence_pairs data.path=<folder or table> data.source_language=… data.target_language=…"

_OWN_FILES = {
    "wikitext wikitext2 wikitext103 ptb penntreebank enwik8 text8 openwebtext owt c4 bookcorpus books shakespeare "
    "tinyshakespeare shakespearechar wikipedia pile tinystories lambada fineweb text txt lines corpus": _CORPUS,
    "imdb agnews yelp yelppolarity yelpreviewfull amazonpolarity dbpedia 20newsgroups newsgroups cola mrpc qqp mnli "
    "qnli rte glue sst sst5 trec tweeteval emotion rottentomatoes sentiment reviews csv tsv json": _TABLE,
    "imagenet imagenette tinyimagenet svhn stl10 caltech101 flowers102 food101 celeba oxfordpets pets dogs "
    "catsvsdogs images imagefolder usps omniglot": _IMAGES,
    "wmt wmt14 wmt16 iwslt iwslt14 iwslt2017 opus opus100 europarl tatoeba cnndailymail": _PAIRS,
}
OWN_FILES = {name: words for names, words in _OWN_FILES.items() for name in names.split()}
"""Well-known data that does not come with bigtrain → the overrides for files of one's own."""

ANY_FILES = "files of your own: data=text_corpus, text_classification, sentence_pairs or image_folder with data.path=…"
FILE_KINDS = {
    **dict.fromkeys((".csv", ".tsv"), "text_classification"),
    **dict.fromkeys((".txt", ".gz", ".jsonl", ".parquet", ".md"), "text_corpus"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"), "image_folder"),
}
"""Ending of a file → the data that reads it."""
PARTNERS_OF_FILES = {"image_folder": "model=cnn", "text_classification": "task=classification"}
"""The data that reads a folder, in the order in which they are looked for → what it needs beside it."""
PARTNERS = {
    "images": "model=cnn",
    "vectors": "model=mlp",
    "pairs": "model=seq2seq",
    "sentences": "task=classification",
    "text": "model=transformer",
}
"""What data provides → an override that makes a training of it, where what was chosen does not go with it."""
