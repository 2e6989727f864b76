"""Every error a user can meet, each with what happened, where, and the next step.

MlloopError                          exit  also a
├── UsageError                        2    ValueError         an option or argument that cannot be meant
├── SettingsError                     2    ValueError         settings.ini or env.yaml
├── ProblemError                      2    ValueError         a problem statement that does not hold together
├── ProjectNotFound                   2    FileNotFoundError  no project above this folder
├── ParameterError                    2    ValueError         a parameter the pipeline does not know
├── SourceError                       2    OSError            a source that cannot be read
├── ContractError                     2    ValueError         rows that do not fit their declared schema
├── DataError                         2    ValueError         rows that fit but cannot answer the question
├── ProductError                      1    ValueError         a stage's product that does not fit its model
├── LakeError                         1    OSError            a table that is missing, locked or damaged
├── LedgerError                       1    RuntimeError       a ledger that is damaged or refuses a row
│   └── PromotionRefused              1                       somebody else promoted first, or no gate passed
├── StageFailed                       1*   RuntimeError       a notebook cell raised
├── InputChanged                      1    RuntimeError       an input changed while a stage was reading it
├── ModelError                        1    ValueError         a model that cannot be fitted, loaded or trusted
├── GateClosed                        3    RuntimeError       a gate said No, or said nothing
└── ProjectBusy                       5    RuntimeError       another run holds the problem, or the project

* Where the cell raised one of these errors itself, the run ends with that one's words and exit code.
"""


class MlloopError(Exception):
    """An error whose message is complete: what, where, and the next step.

    Parameters
    ----------
    what : str
        What is wrong, with the values got and expected.
    where : str, optional
        File, line, table, column or cell; printed before `what`.
    next_step : str, optional
        What to do about it, ending in a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, next_step: str | None = None):
        self.what, self.where, self.next_step = what, where, next_step
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}\n{next_step}" if next_step else message)


class Noted(RuntimeWarning):
    """What a person should know though nothing failed; the command line prints it as a sentence."""


class UsageError(MlloopError, ValueError):
    exit_code = 2


class SettingsError(MlloopError, ValueError):
    exit_code = 2


class ProblemError(MlloopError, ValueError):
    exit_code = 2


class ProjectNotFound(MlloopError, FileNotFoundError):
    exit_code = 2


class ParameterError(MlloopError, ValueError):
    exit_code = 2


class SourceError(MlloopError, OSError):
    exit_code = 2


class ContractError(MlloopError, ValueError):
    exit_code = 2


class DataError(MlloopError, ValueError):
    exit_code = 2


class ProductError(MlloopError, ValueError):
    pass


class LakeError(MlloopError, OSError):
    pass


class LedgerError(MlloopError, RuntimeError):
    pass


class PromotionRefused(LedgerError):
    pass


class StageFailed(MlloopError, RuntimeError):
    pass


class InputChanged(MlloopError, RuntimeError):
    pass


class ModelError(MlloopError, ValueError):
    pass


class GateClosed(MlloopError, RuntimeError):
    exit_code = 3


class ProjectBusy(MlloopError, RuntimeError):
    exit_code = 5
