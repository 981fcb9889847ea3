"""Cards on the first page of the site: where each kind of reader goes on."""

from __future__ import annotations

# Page, then title and text in English and in Chinese.
_CARDS = (
    (
        "quickstart.md",
        ("Quickstart", "First answer, your own PDF, client and adapter, in four steps."),
        ("快速上手", "四步：第一个答案、自己的 PDF、客户端和适配器。"),
    ),
    (
        "concepts/two-attentions.md",
        ("Understand it", "Two kinds of attention, KV blocks and several passages, with drawings."),
        ("了解原理", "两种注意力、KV 块、多个段落：三页短文，配有示意图。"),
    ),
    (
        "rag.md",
        ("Ask your documents", "Add files, search them, and get answers from stored state."),
        ("向文档提问", "添加文件、检索，并用已存储的状态回答问题。"),
    ),
    (
        "serving.md",
        ("Run a server", "Chats, embeddings, reranking and documents from one process."),
        ("运行服务", "一个进程提供对话、向量、重排和文档问答。"),
    ),
    (
        "clients/index.md",
        ("Connect a client", "openai, LangChain, LlamaIndex, Ollama and others, task by task."),
        ("连接客户端", "openai、LangChain、LlamaIndex、Ollama 等，按任务给出代码。"),
    ),
    (
        "training.md",
        ("Train", "Embedding and generation in one run, with your data."),
        ("训练", "用你的数据，在一次运行中训练两种能力。"),
    ),
    (
        "adapt.md",
        ("Adapt to a field", "An adapter from a folder of your documents, without labels."),
        ("领域适配", "只用一个文件夹的文档训练适配器，无需标注。"),
    ),
    (
        "reference/cli.md",
        ("Look it up", "Commands, Python names, HTTP routes, settings and metrics."),
        ("查阅参考", "命令、Python 接口、HTTP 路由、设置和指标。"),
    ),
)


def with_cards(text: str, *, chinese: bool) -> str:
    """Return the first page with the cards before its first section.

    Args:
        text: Markdown of the page.
        chinese: language of the cards.
    """
    lines = ['<div class="grid cards" markdown>', ""]
    for page, english_card, chinese_card in _CARDS:
        title, about = chinese_card if chinese else english_card
        lines += [f"- **[{title}]({page})**", "", f"    {about}", ""]
    before, heading, after = text.partition("\n## ")
    return "\n".join([before.rstrip(), "", *lines, "</div>", ""]) + heading + after
