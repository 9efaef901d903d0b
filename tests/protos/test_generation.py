"""The public contract, field by field. A line here changes only when a field is added."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos import generation_pb2

PROTOS = Path(generation_pb2.__file__).parent

# name=number:type, `?` where presence is told, `*` where repeated, `|group` in a oneof.
FIELDS = {
    "GenerateRequest": """
        request_id=1:string model=2:string text=3:string|prompt token_ids=4:TokenIds|prompt
        chat=5:Chat|prompt sampling=6:SamplingParams stop=7:StopConditions output=8:OutputOptions
        priority=9:int32 add_special_tokens=10:bool?""",
    "TokenIds": "ids=1:uint32*",
    "Chat": """
        messages=1:ChatMessage* tools_json=2:string template_arguments=3:Struct
        continue_final_message=4:bool""",
    "ChatMessage": "role=1:string content=2:string",
    "SamplingParams": """
        temperature=1:float? top_p=2:float? top_k=3:uint32? min_p=4:float?
        repetition_penalty=5:float? presence_penalty=6:float? frequency_penalty=7:float?
        seed=8:uint64? logit_bias=9:LogitBiasEntry* n=10:uint32?""",
    "SamplingParams.LogitBiasEntry": "key=1:uint32 value=2:float",
    "StopConditions": """
        max_tokens=1:uint32? min_tokens=2:uint32? strings=3:string* token_ids=4:uint32*
        ignore_eos=5:bool include_matched=6:bool""",
    "OutputOptions": """
        token_ids=1:bool logprobs=2:uint32? prompt_logprobs=3:bool echo=4:bool
        skip_special_tokens=5:bool?""",
    "TokenLogprob": "token_id=1:uint32 token=2:bytes logprob=3:float top=4:TokenLogprob*",
    "Prompt": "token_ids=1:uint32* logprobs=2:TokenLogprob* text=3:string",
    "Candidate": """
        index=1:uint32 text=2:string token_ids=3:uint32* finish_reason=4:FinishReason
        matched_stop=5:string|matched logprobs=6:TokenLogprob* matched_token_id=7:uint32|matched""",
    "Usage": "prompt_tokens=1:uint32 completion_tokens=2:uint32 cached_prompt_tokens=3:uint32",
    "GenerateResponse": "request_id=1:string candidates=2:Candidate* usage=3:Usage prompt=4:Prompt",
    "GenerateStreamResponse": (
        "request_id=1:string deltas=2:Candidate* usage=3:Usage prompt=4:Prompt"
    ),
    "TokenizeRequest": """
        model=1:string text=2:string|prompt chat=3:Chat|prompt add_special_tokens=4:bool?""",
    "TokenizeResponse": "token_ids=1:uint32* tokens=2:bytes*",
    "DetokenizeRequest": "model=1:string token_ids=2:uint32* skip_special_tokens=3:bool?",
    "DetokenizeResponse": "text=1:string",
    "ListModelsRequest": "",
    "ListModelsResponse": "models=1:Model*",
    "Model": """
        name=1:string architecture=2:string context_length=3:uint32 vocab_size=4:uint32
        parameters=5:uint64 dtype=6:string version=7:string""",
    "GetLoadRequest": "",
    "GetLoadResponse": """
        queued=1:uint32 running=2:uint32 kv_slots_used=3:uint64 kv_slots_total=4:uint64
        replicas=5:Replica*""",
    "Replica": """
        address=1:string ready=2:bool running=3:uint32 kv_slots_used=4:uint64
        kv_slots_total=5:uint64 kv_slots_cached=6:uint64""",
}

TYPES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def spell(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    line = f"{field.name}={field.number}:{named.name if named else TYPES[field.type]}"
    group = field.containing_oneof
    if field.is_repeated:
        return line + "*"
    if group is None:
        return line
    # A field with presence of its own stands in a oneof of one, whose name starts with "_".
    return line + ("?" if group.name.startswith("_") else f"|{group.name}")


def descriptor_of(path: str) -> Descriptor:
    outer, _, inner = path.partition(".")
    message = generation_pb2.DESCRIPTOR.message_types_by_name[outer]
    return message.nested_types_by_name[inner] if inner else message


@pytest.mark.parametrize("message", FIELDS)
def test_a_published_field_keeps_its_name_number_and_type(message: str) -> None:
    fields = {spell(field) for field in descriptor_of(message).fields}
    assert set(FIELDS[message].split()) <= fields


def test_the_service_keeps_its_methods() -> None:
    service = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"]
    assert service.full_name == "triptych.v1.GenerationService"
    methods = {
        method.name: (method.input_type.name, method.output_type.name, method.server_streaming)
        for method in service.methods
        if not method.client_streaming
    }
    assert methods == {
        "Generate": ("GenerateRequest", "GenerateResponse", False),
        "GenerateStream": ("GenerateRequest", "GenerateStreamResponse", True),
        "Tokenize": ("TokenizeRequest", "TokenizeResponse", False),
        "Detokenize": ("DetokenizeRequest", "DetokenizeResponse", False),
        "ListModels": ("ListModelsRequest", "ListModelsResponse", False),
        "GetLoad": ("GetLoadRequest", "GetLoadResponse", False),
    }


def test_finish_reasons_keep_their_numbers() -> None:
    assert dict(generation_pb2.FinishReason.items()) == {
        "FINISH_REASON_UNSPECIFIED": 0,
        "FINISH_REASON_STOP": 1,
        "FINISH_REASON_LENGTH": 2,
    }


@pytest.mark.parametrize("stub", sorted(PROTOS.glob("*_pb2.py")), ids=lambda path: path.name)
def test_stubs_import_on_every_protobuf_runtime_that_is_allowed(stub: Path) -> None:
    # A generator newer than the lowest runtime in pyproject.toml makes stubs that it refuses.
    generated_for = re.search(r"^# Protobuf Python Version: (\S+)$", stub.read_text(), re.MULTILINE)
    assert generated_for is not None
    assert generated_for[1] == "6.31.1"
