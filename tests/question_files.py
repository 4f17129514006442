"""Files of questions, and a tiny Hugging Face folder that can read them."""

import json

from huggingface_folders import plain_copy
from tokenizers import AddedToken, Tokenizer, decoders, models, processors

CHARACTERS = ["\n", *map(chr, range(ord(" "), ord("~") + 1))]
EOS_ID, BOS_ID = len(CHARACTERS), len(CHARACTERS) + 1

TEMPLATE = "{question}\n"
# Puts a question and its answer as TEMPLATE does.
CHAT_TEMPLATE = """<s>{% for message in messages %}
{{ message.content }}{{ "\n" if message.role == "user" else "</s>" }}
{%- endfor %}"""


def sums(count, start=0):
    """Sums as questions with answers of different lengths."""
    numbers = range(start, start + count)
    return [
        {
            "question": f"{i}+{i % 7}?",
            "answer": "so " * (i % 3) + f"<<{i}+{i % 7}={i + i % 7}>>\n#### {i + i % 7}",
        }
        for i in numbers
    ]


def write_questions(path, records):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def as_conversations(records):
    """The same as messages."""
    roles = {"question": "user", "answer": "assistant"}
    return [
        {"messages": [{"role": role, "content": record[field]} for field, role in roles.items()]}
        for record in records
    ]


def character_tokenizer():
    """A tokenizer.json of printable ASCII that, as Llama's, wants a <s> before a text."""
    vocabulary = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("</s>", "<s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS_ID)]
    )
    return tokenizer.to_str()


def model_folder(folder, name="tiny_llama"):
    """A copy of a tiny model with a tokenizer beside it."""
    folder = plain_copy(name, folder)
    (folder / "tokenizer.json").write_text(character_tokenizer())
    return folder
