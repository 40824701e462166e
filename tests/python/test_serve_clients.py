"""The server as the programs know it that people use: openai, anthropic, llm with llm-omlx, LangChain."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import llm
import numpy as np
import openai
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from client_models import ANSWER, ARGUMENTS, EMBEDDING_WIDTH, TOOL
from serving import KEY, MODELS, Served

QUESTION = "My locker number is 6094. What is my locker number?"
TOOLS: Any = [{"type": "function", "function": TOOL}]
ANTHROPIC_TOOLS: Any = [{"name": TOOL["name"], "input_schema": TOOL["parameters"]}]
SURE: Any = {"temperature": 0}


def asked(text: str = QUESTION) -> Any:
    return [{"role": "user", "content": text}]


# -- openai -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.v1, api_key=KEY, max_retries=0, timeout=120) as opened:
        yield opened


def test_openai_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="notes", messages=asked(), temperature=0)
    assert whole.choices[0].message.content == "6094."
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(
            model="notes", messages=asked(), temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "6094."
    assert len(list(filter(None, texts))) > 2
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_openai_limits_an_answer_by_either_name(client: openai.OpenAI) -> None:
    for limit in ("max_tokens", "max_completion_tokens"):
        short = client.chat.completions.create(model="tiny", messages=asked(), temperature=0, **{limit: 3})  # type: ignore[call-overload]
        assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


def test_openai_completions(client: openai.OpenAI) -> None:
    begin: Any = {"model": "notes", "max_tokens": 12, "temperature": 0}
    one = client.completions.create(prompt="Once upon a time", **begin)
    both = client.completions.create(prompt=["Once upon a time", "The door"], **begin)
    streamed = client.completions.create(prompt="Once upon a time", stream=True, **begin)
    assert one.choices[0].text
    assert both.choices[0].text == one.choices[0].text != both.choices[1].text
    assert "".join(choice.text for chunk in streamed for choice in chunk.choices) == one.choices[0].text
    cut = client.completions.create(prompt="Once upon a time", stop=[one.choices[0].text[8:12]], **begin)
    # The fork takes the spaces off the end of an answer.
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (one.choices[0].text[:8].rstrip(), "stop")


def test_openai_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="notes", input=asked("My locker number is 6094."), temperature=0)
    second = client.responses.create(
        model="notes", input="What is my locker number?", previous_response_id=first.id, temperature=0
    )
    assert second.output_text == "6094."
    assert client.responses.retrieve(second.id).output_text == "6094."
    kinds, text = [], ""
    for event in client.responses.create(model="notes", input=QUESTION, temperature=0, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == "6094."
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_openai_tools(client: openai.OpenAI) -> None:
    conversation = asked("How is the weather in Rome?")
    create: Callable[..., Any] = client.chat.completions.create
    choice = create(model="caller", messages=conversation, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (TOOL["name"], ARGUMENTS)
    with client.chat.completions.stream(model="caller", messages=conversation, tools=TOOLS) as stream:
        (again,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert again.function.name == TOOL["name"]
    conversation += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    told = create(model="caller", messages=conversation, tools=TOOLS).choices[0]
    assert (told.message.content, told.finish_reason) == (ANSWER, "stop")
    unasked = create(model="caller", messages=asked(), tools=TOOLS, tool_choice="none").choices[0]
    assert (unasked.message.content, unasked.message.tool_calls) == (ANSWER, None)
    output = client.responses.create(model="caller", input="Weather?", tools=[{"type": "function", **TOOL}]).output  # type: ignore[list-item]
    assert [json.loads(each.arguments) for each in output if each.type == "function_call"] == [ARGUMENTS]


def test_openai_embeddings(client: openai.OpenAI) -> None:
    texts = ["a short one", "another", "a short one"]
    packed = client.embeddings.create(model="embedder", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    for answer in (packed, plain):
        vectors = np.array([each.embedding for each in answer.data])
        assert vectors.shape == (3, EMBEDDING_WIDTH)
        assert np.isfinite(vectors).all()
        assert [each.index for each in answer.data] == [0, 1, 2]
    assert plain.usage.prompt_tokens > 0


def test_openai_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == MODELS
    assert client.models.retrieve("notes").id == "notes"
    with pytest.raises(openai.NotFoundError, match="Model 'nope' not found"):
        client.models.retrieve("nope")


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"model": "nope"}, openai.NotFoundError, "Model 'nope' not found"),
        ({"model": "broken"}, openai.BadRequestError, r"broken \(qwen3\) could not be loaded"),
        ({"model": "embedder"}, openai.BadRequestError, "not an LLM"),
        ({"messages": []}, openai.BadRequestError, "messages is empty"),
        ({"messages": asked("hello " * 9000)}, openai.BadRequestError, "exceeds max context window of 8192 tokens"),
        ({"messages": "hello"}, openai.UnprocessableEntityError, "messages"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens must be at least 1, not 0"),
        ({"max_completion_tokens": -5}, openai.BadRequestError, "max_completion_tokens must be at least 1"),
        ({"temperature": -1}, openai.BadRequestError, "temperature must be at least 0.0"),
        ({"top_p": 2}, openai.BadRequestError, "top_p must be between 0.0 and 1.0"),
        ({"presence_penalty": 9}, openai.BadRequestError, "presence_penalty must be between -2.0 and 2.0"),
        ({"temperature": "hot"}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 2}, openai.BadRequestError, "n must be 1, not 2"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_errors(
    client: openai.OpenAI, wrong: dict[str, Any], kind: type[openai.APIStatusError], said: str, stream: bool
) -> None:
    right = {"model": "notes", "messages": asked(), "max_tokens": 2} if "max_completion_tokens" not in wrong else {
        "model": "notes", "messages": asked()
    }  # fmt: skip
    create: Callable[..., Any] = client.chat.completions.create
    with pytest.raises(kind, match=said) as caught:
        create(**{**right, **wrong}, stream=stream)
    assert caught.value.type in {"invalid_request_error", "not_found_error"}


def test_a_failure_while_it_generates_is_told(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="index out of range"):
        client.chat.completions.create(model="failing", messages=asked())
    with pytest.raises(openai.InternalServerError, match="index out of range"):
        client.completions.create(model="failing", prompt="x")
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(client.completions.create(model="failing", prompt="x", stream=True))
    said: Any = {"model": "failing", "max_tokens": 5, "messages": asked()}
    with anthropic.Anthropic(base_url=served.url, api_key=KEY, max_retries=0) as claude:
        for stream, message in ((False, "index out of range"), (True, "the engine failed")):
            with pytest.raises(anthropic.APIError, match=message):
                list(claude.messages.create(stream=stream, **said))
    assert client.chat.completions.create(model="caller", messages=asked()).choices[0].message.content == ANSWER


def test_openai_errors_of_other_routes(client: openai.OpenAI) -> None:
    embeddings: Callable[..., Any] = client.embeddings.create
    completions: Callable[..., Any] = client.completions.create
    for failing, kind, said in [
        (lambda: embeddings(model="notes", input="x"), openai.BadRequestError, "not an embedding model"),
        (lambda: embeddings(model="embedder", input=[]), openai.BadRequestError, "Input cannot be empty"),
        (lambda: completions(model="notes", prompt=""), openai.BadRequestError, "prompt is empty"),
        (lambda: completions(model="notes", prompt=[]), openai.BadRequestError, "prompt is empty"),
        (lambda: client.responses.create(model="notes", input=""), openai.BadRequestError, "input is empty"),
        (lambda: client.audio.speech.create(model="notes", input="x", voice="x"), openai.BadRequestError, "speech"),
        (
            lambda: client.audio.transcriptions.create(model="notes", file=("x.wav", b"RIFF")),
            openai.BadRequestError,
            "speech-to-text",
        ),
        (lambda: client.images.generate(model="notes", prompt="x"), openai.InternalServerError, "disabled"),
        (lambda: client.with_options(api_key="wrong").models.list(), openai.AuthenticationError, "Invalid API key"),
    ]:
        with pytest.raises(kind, match=said):
            failing()


# -- anthropic --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["", "/api"])
def claude(served: Served, request: pytest.FixtureRequest) -> Iterator[anthropic.Anthropic]:
    url = served.url + request.param
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=120) as opened:
        yield opened


def test_anthropic_messages_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    said: Any = {"model": "notes", "max_tokens": 20, "messages": asked(), "extra_body": SURE}
    whole = claude.messages.create(system="Answer with the value alone.", **said)
    assert [block.text for block in whole.content if block.type == "text"] == ["6094."]
    assert whole.stop_reason == "end_turn"
    with claude.messages.stream(**said) as stream:
        assert "".join(stream.text_stream) == "6094."
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", whole.usage.output_tokens)
    counted = claude.messages.count_tokens(model="notes", messages=asked())
    assert counted.input_tokens == final.usage.input_tokens


def test_anthropic_tools(claude: anthropic.Anthropic) -> None:
    said: Any = {"model": "caller", "max_tokens": 50, "tools": ANTHROPIC_TOOLS}
    whole = claude.messages.create(messages=asked("How is the weather?"), **said)
    assert whole.stop_reason == "tool_use"
    (call,) = [block for block in whole.content if block.type == "tool_use"]
    assert (call.name, call.input) == (TOOL["name"], ARGUMENTS)
    with claude.messages.stream(messages=asked("How is the weather?"), **said) as stream:
        assert [block.input for block in stream.get_final_message().content if block.type == "tool_use"] == [ARGUMENTS]
    result = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]
    conversation = [
        *asked("How is the weather?"),
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": result},
    ]
    told = claude.messages.create(messages=conversation, **said)
    assert [block.text for block in told.content if block.type == "text"] == [ANSWER]


@pytest.mark.parametrize(
    ("wrong", "kind", "type_", "said"),
    [
        ({"model": "nope"}, anthropic.NotFoundError, "not_found_error", "Model 'nope' not found"),
        ({"model": "broken"}, anthropic.BadRequestError, "invalid_request_error", "could not be loaded"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages is empty"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens must be at least 1"),
        ({"max_tokens": "x"}, anthropic.UnprocessableEntityError, "invalid_request_error", "max_tokens"),
    ],
)
def test_anthropic_errors(
    claude: anthropic.Anthropic, wrong: dict[str, Any], kind: type[anthropic.APIStatusError], type_: str, said: str
) -> None:
    create: Callable[..., Any] = claude.messages.create
    with pytest.raises(kind, match=said) as caught:
        create(**{"model": "notes", "max_tokens": 2, "messages": asked(), **wrong})
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", type_)


def test_anthropic_without_a_key(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError, match="Invalid API key") as caught:
        claude.with_options(api_key="wrong").models.list()
    with pytest.raises(anthropic.AuthenticationError) as caught:
        claude.with_options(api_key="wrong").messages.create(model="notes", max_tokens=2, messages=asked())
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"


# -- llm --------------------------------------------------------------------------------------------------------


@pytest.fixture
def llm_at(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("OMLX_API_BASE", served.url)
    monkeypatch.setenv("OMLX_API_KEY", KEY)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


@pytest.mark.usefixtures("llm_at")
def test_llm_on_the_command_line() -> None:
    command = [sys.executable, "-m", "llm", "-m", "omlx/notes", "-o", "temperature", "0", QUESTION]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "6094.\n"), ended.stderr


@pytest.mark.usefixtures("llm_at")
def test_llm_models_streams_tools_and_embeddings() -> None:
    assert {each.model_id for each in llm.get_models()} >= {"omlx/notes", "omlx/caller"}
    streamed = llm.get_model("omlx/notes").prompt(QUESTION, temperature=0.0)
    assert len(list(streamed)) > 2
    assert streamed.text() == "6094."
    assert llm.get_model("omlx/notes").prompt(QUESTION, temperature=0.0, stream=False).text() == "6094."
    seen = []

    def weather(city: str) -> str:
        """The weather of a city."""
        seen.append(city)
        return "sunny"

    assert llm.get_model("omlx/caller").chain("Weather?", tools=[weather]).text() == ANSWER
    assert seen == [ARGUMENTS["city"]]
    assert len(llm.get_embedding_model("omlx/embedder").embed("hello")) == EMBEDDING_WIDTH
    with pytest.raises(llm.ModelError, match="HTTP 400"):
        llm.get_model("omlx/broken").prompt("hello").text()


# -- LangChain --------------------------------------------------------------------------------------------------


def langchain(served: Served, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=served.v1, api_key=KEY, temperature=0, max_retries=0, **more)  # type: ignore[arg-type]


def test_langchain_chat_whole_and_streamed(served: Served) -> None:
    notes = langchain(served, "notes", max_tokens=20)
    whole = notes.invoke(QUESTION)
    assert whole.content == "6094."
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 5
    chunks = list(notes.stream(QUESTION))
    assert sum(map(bool, (chunk.content for chunk in chunks))) > 2
    together = chunks[0]
    for chunk in chunks[1:]:
        together = together + chunk
    assert isinstance(together, AIMessageChunk)
    assert together.content == "6094."
    # LangChain has another name for the limit.
    assert langchain(served, "tiny", max_tokens=3).invoke(QUESTION).usage_metadata["output_tokens"] == 3  # type: ignore[index]


async def test_langchain_batches(served: Served) -> None:
    answers = await langchain(served, "notes").abatch([f"My locker number is {number}. What is my locker number?"
                                                       for number in (1357, 2468, 6094)])  # fmt: skip
    assert [answer.content for answer in answers] == ["1357.", "2468.", "6094."]


def test_langchain_tools_and_embeddings(served: Served) -> None:
    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    bound = langchain(served, "caller").bind_tools([weather])
    called = bound.invoke("Weather?")
    assert isinstance(called, AIMessageChunk) or called.type == "ai"
    (call,) = called.tool_calls  # type: ignore[attr-defined]
    assert (call["name"], call["args"]) == ("weather", ARGUMENTS)
    result = weather.invoke(call)
    assert bound.invoke([("user", "Weather?"), called, result]).content == ANSWER
    embeddings = OpenAIEmbeddings(
        model="embedder",
        base_url=served.v1,
        api_key=KEY,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,  # it would fetch OpenAI's tokenizer
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [EMBEDDING_WIDTH] * 2
