"""Explains why a model could not be traced, where, and how to rewrite it.

HiSilicon's AMCT manual, chapter "Failures of fx.symbolic_trace" [fx.symbolic_trace异常场景汇总].
"""

from __future__ import annotations

import dataclasses
import re
import traceback

from ....errors import UnsupportedModelError
from ...user_model.written_parameters import PARAMETER_CHANGED, WITHOUT_WRITING
from .guided.evaluation import VALUE_OF_DATA
from .user_code import is_user_file

CHAPTER = '"Failures of fx.symbolic_trace" [fx.symbolic_trace异常场景汇总]'

_WRAP = "Put these lines into a function of their own above the model and decorate it with @torch.fx.wrap"
_DYNAMIC = (
    "or use the dynamic path (amct.create_quant_config, amct.quantize_model, amct.save_model), which runs the model "
    "as it is"
)
WITH_EXAMPLE = "Pass input_data= to trace the model as it is called."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason why a trace fails.

    Attributes:
      name: Short description, in the terms of the manual's chapter.
      message: Pattern of the exception's text.
      code: Pattern of the user's line of code; empty matches any.
      advice: How to rewrite the line.
      needs_example: Whether a trace with an example would succeed, unless the code needs a value of the data.
    """

    name: str
    message: str
    code: str = ""
    advice: str
    needs_example: bool = True


_CAUSES = (
    Cause(
        name="control flow, a number or a size that depends on the values of the data",
        message=VALUE_OF_DATA,
        advice=f"Make it depend on the model's settings or on shapes only; {_WRAP}; {_DYNAMIC}.",
        needs_example=False,
    ),
    Cause(
        name="a region of torch.autocast, whose type is neither that of the files nor that of the quantized model",
        message="torch.autocast is enabled here",
        advice="Use enabled=False, or leave autocast to the script that trains the model.",
        needs_example=False,
    ),
    Cause(
        name="a change of a parameter that a graph cannot follow",
        message=PARAMETER_CHANGED,
        advice=f"{WITHOUT_WRITING}.",
        needs_example=False,
    ),
    Cause(
        name="an assert on a traced value",
        message=r"cannot be used as inputs to control flow",
        code=r"^\s*assert\b",
        advice="Delete the assert.",
    ),
    Cause(
        name="control flow that depends on the data or its shape",
        message=r"cannot be used as inputs to control flow",
        advice=f"Make the condition depend on the model's settings only; {_WRAP}; {_DYNAMIC}.",
    ),
    Cause(
        name="a loop or index that depends on the data or its shape",
        message=r"cannot be interpreted as an integer|indices must be integers|unhashable type: '\w*Proxy'",
        advice=f"Take the number from the model's settings; {_WRAP}; {_DYNAMIC}.",
    ),
    Cause(
        name="a Proxy is iterated",
        message=r"Proxy object cannot be iterated",
        advice="Unpack into names (y0, y1 = x.chunk(2)) and build the list from them; spell out the arguments of "
        "functions and of forward instead of *args and **kwargs.",
    ),
    Cause(
        name="assignment to an index or a slice",
        message=r"'\w*Proxy' object does not support item (assignment|deletion)",
        advice=f"{_WRAP}; return the tensor.",
    ),
    Cause(
        name="a function that is not torch's",
        message=r"is not supported in symbolic tracing by default",
        advice="Call torch.fx.wrap('name of the function') at module level, above the model.",
    ),
    Cause(
        name="a conversion of the data type",
        message=r"dtype must be a type, str, or dtype object",
        advice=f"{_WRAP}: def do_not_trace_me(x): return torch.randn(2).type(x.data.type()).",
    ),
    Cause(
        name="a tensor constructor that depends on the input",
        message=r"invalid combination of arguments - got|must be tuple of (Symbolic|Sym|)?[Ii]nts"
        r"|takes \d+ positional arguments? but \d+ (was|were) given|must be (int|Number|a number)",
        code=r"\b(arange|zeros|ones|full|empty|linspace|eye|rand\w*|tensor|as_tensor|meshgrid)\(",
        advice=f"Use a constant (torch.arange(8, device=device)). {_WRAP}; it must take a traced input, used or not.",
    ),
    Cause(
        name="a traced value used as a Python number or text",
        message=r"not '\w*Proxy'|, not \w*Proxy|__\w+__ should return|must be real number"
        r"|must be (int|Number|a number)",
        advice=f"Take the number from the model's settings. {_WRAP}; {_DYNAMIC}.",
    ),
    Cause(
        name="an object that a graph cannot hold",
        message=r"argument of type: <class|cannot create constant arg|deepcopy|NodeBase",
        advice="Pass tensors, numbers, lists and dicts; do not keep traced values (Proxy) in attributes of the model.",
    ),
    Cause(
        name="a module or parameter that the model does not own",
        message=r"not installed as a submodule|parameter is not a member of this module",
        advice="Assign it to an attribute in __init__; keep several in nn.ModuleList or nn.ParameterList, which eval()"
        " and state_dict() reach.",
        needs_example=False,
    ),
)

_UNKNOWN = Cause(
    name="code that torch.fx cannot follow",
    message="",
    advice=f"Inputs and results are torch.fx.Proxy objects while tracing, so that their type cannot be asked for. "
    f"{_WRAP}; {_DYNAMIC}.",
)

_RAISED = Cause(
    name="the model's own code raises this error",
    message="",
    advice=f"{WITH_EXAMPLE} On the command line: --input_shape or -i.",
    needs_example=False,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceProblem:
    """One line of a model that torch.fx cannot trace.

    Attributes:
      error: Class and text of the Python error.
      place: File, line and code, as in a traceback; empty if the line is in no file.
      reason: Why the line cannot be traced.
      rewrite: How to rewrite the line.
      module_path: Path of the module whose forward has the line; empty for the model itself.
    """

    error: str
    place: str
    reason: str
    rewrite: str
    module_path: str = ""

    def __str__(self) -> str:
        where = f"\n{self.place}" if self.place else ""
        return f"{self.error}{where}\nReason: {self.reason}. {self.rewrite}"


class UntraceableError(UnsupportedModelError):
    """The model cannot be traced; ``problem`` has the details as values."""

    def __init__(self, problem: TraceProblem) -> None:
        chapter = "" if problem.reason == _RAISED.name else f"\nSee HiSilicon's AMCT manual, chapter {CHAPTER}."
        super().__init__(f"The model cannot be traced by torch.fx. {problem}{chapter}")
        self.problem = problem


def explain(error: Exception, module_path: str = "", has_example: bool = False) -> UntraceableError:
    """Returns the error to raise from ``error``, which a trace of the forward of ``module_path`` has raised.

    Without an example, passing an example is the first remedy if it may help.
    """
    place = _user_line(error)
    code = place.line or "" if place else ""
    cause = _find_cause(str(error), code)
    if cause is _UNKNOWN and not has_example and re.match(r"raise\b|assert\b", code):
        cause = _RAISED
    has_remedy = has_example or not cause.needs_example
    where = f'  File "{place.filename}", line {place.lineno}, in {place.name}\n    {place.line}' if place else ""
    return UntraceableError(
        TraceProblem(
            error=f"{type(error).__name__}: {error}",
            place=where,
            reason=cause.name,
            rewrite=cause.advice if has_remedy else f"{WITH_EXAMPLE} Or: {cause.advice}",
            module_path=module_path,
        )
    )


def _find_cause(message: str, code: str) -> Cause:
    for cause in _CAUSES:
        if re.search(cause.message, message) and re.search(cause.code, code):
            return cause
    return _UNKNOWN


def _user_line(error: Exception) -> traceback.FrameSummary | None:
    """Returns the innermost frame of the user's code; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if is_user_file(frame.filename)]
    return users[-1] if users else None
