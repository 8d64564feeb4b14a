# The habits of the Makefile for Windows, which has no make:  .\tasks.ps1 setup | quick | check | format | demo
#
# Never run on a real Windows yet. If PowerShell refuses scripts:
#   powershell -ExecutionPolicy Bypass -File tasks.ps1 quick
param([ValidateSet('setup', 'quick', 'check', 'format', 'demo')][string]$Task = 'quick')

$ErrorActionPreference = 'Stop'
Set-Location $PSScriptRoot
$python = Join-Path $PSScriptRoot '.venv\Scripts\python.exe'
$inContainers = '(remote/programs|recipes/builtin)/'
# Only the messages: files and pipes are what Python makes of them.
$env:PYTHONIOENCODING = 'utf-8'

# A program that fails ends the task; PowerShell 5.1 goes on by itself.
function Invoke-Python {
    & $python -m @args
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

if (!(Test-Path $python)) {
    py -3 -m venv .venv
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}
$stamp = '.venv\.apexgpu-setup-windows'
if (!(Test-Path $stamp) -or (Get-Item pyproject.toml).LastWriteTime -gt (Get-Item $stamp).LastWriteTime) {
    Invoke-Python pip install --quiet -e '.[dev]'
    New-Item -Force $stamp | Out-Null
}

switch ($Task) {
    'quick' { Invoke-Python pytest -q -n auto --dist worksteal tests/quick }
    'check' {
        Invoke-Python ruff check src tests bench
        Invoke-Python ruff format --check src tests bench
        Invoke-Python mypy --exclude $inContainers src
    }
    'format' {
        Invoke-Python ruff check --fix src tests bench
        Invoke-Python ruff format src tests bench
    }
    # Containers of the lab need sh and /proc: this says so, and how to run it in WSL.
    'demo' { Invoke-Python apexgpu demo }
}
